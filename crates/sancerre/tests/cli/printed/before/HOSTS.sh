. .run/site
unset SANCERRE_KEY_FILE
age-keygen -o drill.txt
sancerre key add restore --recipient "$(grep -o 'age1.*' drill.txt)" --label drill
