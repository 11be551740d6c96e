. .run/bucket-site
