import json, pathlib, tempfile, time
import galvan
from galvan.recipe import from_text
d = pathlib.Path(tempfile.mkdtemp())
t=time.time()
r = from_text("name: x", "x", ["data.maximum_documents=60","data.document_tokens=48","training.epochs=1","generation.documents=2"])
j = galvan.run(r, d/"run", offline=True)
print(time.time()-t, json.loads((d/"run"/"training.json").read_text())["checks"])
f=j.evidence.findings
print(j.verdict["verdict"], [(x.code,x.certainty) for x in f if x.status=="present"], [x.code for x in f if x.status=="unknown"])
import shutil; shutil.rmtree(d)
