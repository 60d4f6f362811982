#!/bin/sh
# Helm post-renderer: Kepler gets the folder that the meter writes, in place of /sys.
#
#   helm install kepler <chart> --post-renderer deploy/helm/post-render.sh
#
# Kepler's chart has no value for this path. The program changes only the host path of the volume `sysfs`. It fails if
# the chart has no volume `sysfs` with the host path /sys.
exec awk -v tree="${KEPLER_METER_TREE:-/run/kepler-core/sysfs}" '
    # An item of a list begins with "- ". The two keys of a volume may be in any order.
    /^[ \t]*-[ \t]/ || /^---/ { flush() }
    { lines[++count] = $0 }
    END {
        flush()
        if (!changed) {
            print "post-render.sh: found no volume sysfs with the host path /sys" > "/dev/stderr"
            exit 1
        }
    }
    function flush(    number, named) {
        for (number = 1; number <= count; number++)
            if (lines[number] ~ /^[ \t]*(-[ \t]+)?name:[ \t]*"?sysfs"?[ \t]*$/) named = 1
        for (number = 1; number <= count; number++) {
            if (named && lines[number] ~ /^[ \t]*(-[ \t]+)?path:[ \t]*"?\/sys"?[ \t]*$/) {
                sub(/"?\/sys"?[ \t]*$/, tree, lines[number])
                changed = 1
            }
            print lines[number]
        }
        count = 0
    }
'
