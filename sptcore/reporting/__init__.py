"""What runs came to, put into pages and tables: the jobs report and compare."""
