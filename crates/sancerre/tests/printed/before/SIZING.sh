. .run/site
