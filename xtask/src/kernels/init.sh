#!/bin/busybox sh
# The guest's first and only process: runs the fixtures, prints one line of JSON behind a marker, and turns the
# machine off. What the test reads from its environment (HOLDFAST_…) comes from the kernel's command line.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
# The test runner says that packets came by interface 1.
ip link set lo up

echo "holdfast-boot $(uname -r)"
{
    # First what all others need: where the program does not load, they would tell the same twenty times, slowly.
    /dataplane --show-output verifier:: && /dataplane --test-threads=2 --show-output
    echo $? > /tmp/exit
} 2>&1 | tee /tmp/output

number() {
    found=$(sed -n "s/$1/\1/p" /tmp/output | tail -n 1)
    echo "${found:-null}"
}
echo "holdfast-result {\"kernel\": \"$(uname -r)\", \"exit\": $(cat /tmp/exit)," \
    "\"tests_passed\": $(number '^test result: .* \([0-9]*\) passed;.*')," \
    "\"tests_failed\": $(number '^test result: .* \([0-9]*\) failed;.*')," \
    "\"verified_instructions\": $(number '^verified instructions: \([0-9]*\) .*')}"
poweroff -f
