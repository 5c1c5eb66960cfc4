#!/bin/busybox sh
# The guest's first and only process: runs the fixtures, prints one line of JSON behind a marker, and turns the
# machine off. What the test reads from its environment (HOLDFAST_…) comes from the kernel's command line.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
# Such as are no part of this kernel.
for module in /modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
# The test runner says that packets came by interface 1.
ip link set lo up

echo "holdfast-boot $(uname -r)"
{
    # First what all others need: where the program does not load, they would tell the same twenty times, slowly.
    /dataplane --show-output verifier:: && /dataplane --test-threads=2 --show-output --skip verifier::
    echo $? > /tmp/exit
} 2>&1 | tee /tmp/output

number() {
    found=$(sed -n "s/$1/\1/p" /tmp/output | tail -n 1)
    echo "${found:-null}"
}
# Over both runs: of "test result: ok. 34 passed; 0 failed; …" the field with this number.
sum() {
    awk -v field="$1" '/^test result: / { sum += $field; any = 1 } END { print any ? sum : "null" }' /tmp/output
}
echo "holdfast-result {\"kernel\": \"$(uname -r)\", \"exit\": $(cat /tmp/exit)," \
    "\"tests_passed\": $(sum 4)," \
    "\"tests_failed\": $(sum 6)," \
    "\"verified_instructions\": $(number '^verified instructions: \([0-9]*\) .*')," \
    "\"probes_instructions\": $(number "^instructions of the probes' programs: \([0-9]*\)")}"
poweroff -f
