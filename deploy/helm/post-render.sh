#!/bin/sh
# Helm post-renderer: gives the meter's tree to Kepler in place of /sys.
#
#   helm install kepler <chart> --post-renderer deploy/helm/post-render.sh
#
# Kepler's chart has no value for this path. The program changes the host path of the volume `sysfs`, and nothing else.
# It fails if there is no such volume.
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
