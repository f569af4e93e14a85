"""What people judge and try in a browser: blind review and playground. `ratings` is read by the report and needs neither torch nor a server."""
