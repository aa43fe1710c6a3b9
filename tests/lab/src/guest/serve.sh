# Takes scripts, each followed by a line "=== run", and says how each ended.
echo "=== ready"
: >/tmp/script
while IFS= read -r line; do
    if [ "$line" = "=== run" ]; then
        /bin/dash /tmp/script </dev/null 2>&1
        printf '\n=== exit %d\n' $?
        : >/tmp/script
    else
        printf '%s\n' "$line" >>/tmp/script
    fi
done
poweroff -f
