"""English words that may be left out of the features (METHODS S4.3): whom a text is about is topic, and an editor may spell contractions out."""

from __future__ import annotations

_PRONOUNS = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves thou thee thy thine
"""
_CONTRACTIONS = """
ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't shan't shouldn't
wasn't weren't won't wouldn't i'm i've i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll
we're we've we'd we'll they're they've they'd they'll that's that'd that'll there's there'd here's what's who's who'd who'll
where's how's let's tis twas
"""
PRONOUNS, CONTRACTIONS = frozenset(_PRONOUNS.split()), frozenset(_CONTRACTIONS.split())
LISTS = {"pronouns": PRONOUNS, "contractions": CONTRACTIONS}
