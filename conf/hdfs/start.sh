#!/usr/bin/env bash
# Start a small real HDFS, and with --yarn a YARN, for trials and tests: separate servers, all on loopback.
#
#   start.sh DIR [--datanodes N] [--yarn]
#
# DIR/conf is a HADOOP_CONF_DIR for clients, DIR/log has the servers' logs, DIR/pid their process numbers. What runs
# already is left running; what is stored in DIR stays from start to start. stop.sh DIR stops it all.
# The jars are fetched once by Maven, into ${MARSPIPE_HADOOP_JARS:-${XDG_CACHE_HOME:-~/.cache}/marspipe/hadoop-3.5.0}.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
heap=-Xmx256m
wait_s=60

fail() {
    echo "start.sh: $*" >&2
    exit 1
}

usage="usage: start.sh DIR [--datanodes N] [--yarn]"
dir='' datanodes=3 yarn=''
while (($#)); do
    case $1 in
    --datanodes) datanodes=${2:?$usage} && shift ;;
    --yarn) yarn=1 ;;
    -*) fail "$usage" ;;
    *) [[ -z $dir ]] && dir=$1 || fail "$usage" ;;
    esac
    shift
done
[[ -n $dir && $datanodes =~ ^[1-9][0-9]?$ ]] || fail "$usage"
mkdir -p "$dir" || fail "cannot make $dir"
dir=$(cd "$dir" && pwd -P)
[[ $dir =~ ^[A-Za-z0-9_./+-]+$ ]] || fail "Hadoop needs a folder name of plain letters, digits and ._+-; got $dir"

# Java and Python.
if [[ -z ${JAVA_HOME:-} ]]; then
    java=$(command -v java) || fail "no Java found: install Java 17 or newer, for example openjdk-17-jre-headless"
    JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$java")")")
fi
export JAVA_HOME # YARN starts the containers with it
java=$JAVA_HOME/bin/java
version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' || true)
((${version:-0} >= 17)) || fail "Hadoop 3.5 needs Java 17 or newer, found ${version:-none} in $JAVA_HOME"
command -v python3 >/dev/null || fail "no python3 found: install Python 3"

# The jars: used only if all of them are as they were fetched; a download is put into place as a whole.
jars=${MARSPIPE_HADOOP_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/marspipe/hadoop-3.5.0}
complete() {
    cmp -s "$here/pom.xml" "$jars/pom.xml" && (cd "$jars" && sha256sum --quiet --check SHA256SUMS >/dev/null 2>&1)
}
if ! complete; then
    [[ ! -e $jars || -f $jars/SHA256SUMS ]] || fail "$jars was not made by start.sh (no SHA256SUMS): name another folder"
    command -v mvn >/dev/null || fail "the Hadoop jars are not in $jars, and no Maven found to fetch them: install maven"
    mkdir -p "$(dirname "$jars")" || fail "cannot make $(dirname "$jars")"
    new=$(mktemp -d "$jars.XXXXXX") || fail "cannot write to $(dirname "$jars")"
    trap 'rm -rf "$new"' EXIT
    echo "fetching the Hadoop jars (100 MB) into $jars" >&2
    mvn --batch-mode --quiet --file "$here/pom.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$new" >"$dir/maven.log" 2>&1 ||
        fail "Maven cannot fetch the Hadoop jars: $(grep -m 1 ERROR "$dir/maven.log" | cut -c 1-300) (see $dir/maven.log)"
    (cd "$new" && sha256sum -- *.jar >SHA256SUMS)
    cp "$here/pom.xml" "$new/"
    chmod 755 "$new"
    rm -rf "$jars"
    mv -T "$new" "$jars" 2>/dev/null || true # another start may have been quicker
    complete || fail "the Hadoop jars in $jars are not complete"
fi

mkdir -p "$dir"/{conf,log/containers,pid,tmp,yarn} "$dir"/server/webapps/{hdfs,datanode,static}/WEB-INF
cp "$here/log4j.properties" "$dir/server/"

# Ports: free ones, chosen once, below those that the system hands out to clients.
names=(NAMENODE NAMENODE_HTTP RM RM_SCHEDULER RM_TRACKER RM_ADMIN RM_HTTP NM NM_LOCALIZER NM_HTTP)
for ((i = 0; i < datanodes; i++)); do names+=("DATA_$i" "DATA_IPC_$i" "DATA_HTTP_$i"); done
python3 - "$dir/ports" "${names[@]}" <<'PY'
import pathlib, random, socket, sys

path, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
ports = dict(line.split("=") for line in path.read_text().split()) if path.exists() else {}
for name in names:
    while name not in ports:
        port = random.randrange(12000, 30000)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if str(port) not in ports.values():
            ports[name] = str(port)
path.write_text("".join(f"{name}={port}\n" for name, port in ports.items()))
PY
declare -A port
while IFS='=' read -r name number; do port[$name]=$number; done <"$dir/ports"

for file in core-site hdfs-site yarn-site capacity-scheduler; do
    text=$(<"$here/$file.xml")
    text=${text//@DIR@/$dir}
    for name in "${!port[@]}"; do text=${text//@$name@/${port[$name]}}; done
    printf '%s\n' "$text" >"$dir/conf/$file.xml.new"
    # What the owner of the folder has changed stays; the ports do not change.
    [[ -e $dir/conf/$file.xml ]] || mv "$dir/conf/$file.xml.new" "$dir/conf/$file.xml"
    rm -f "$dir/conf/$file.xml.new"
done

class_path="$dir/conf:$dir/server:$jars/*"
options=("-Dmarspipe.servers=$dir" -Djava.net.preferIPv4Stack=true -XX:+UseSerialGC -XX:TieredStopAtLevel=1)

running() { # running NAME: whether the server of DIR/pid/NAME lives
    local pid
    pid=$(cat "$dir/pid/$1" 2>/dev/null) || return 1
    { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qxF -- "-Dmarspipe.servers=$dir"
}

start() { # start NAME CLASS ARGUMENT...
    local name=$1 main=$2
    shift 2
    if running "$name"; then return; fi
    (cd "$dir" && exec setsid "$java" "$heap" "${options[@]}" -cp "$class_path" "$main" "$@" \
        </dev/null >>"$dir/log/$name.log" 2>&1) &
    echo $! >"$dir/pid/$name"
}

bean() { # bean PORT BEAN: print an attribute block of a server's own report
    python3 - "$1" "$2" <<'PY' 2>/dev/null
import json, sys, urllib.request

url = f"http://127.0.0.1:{sys.argv[1]}/jmx?qry={sys.argv[2]}"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
beans = json.load(opener.open(url, timeout=5))["beans"]
print("\n".join(f"{key}={value}" for key, value in (beans[0] if beans else {}).items()))
PY
}

await() { # await WHAT NAME... -- COMMAND...: until COMMAND succeeds; fail if a server NAME ends before
    local what=$1 names=() give_up=$((SECONDS + wait_s))
    shift
    while [[ $1 != -- ]]; do names+=("$1") && shift; done
    shift
    until "$@"; do
        for name in "${names[@]}"; do
            running "$name" && continue
            sleep 0.5
            running "$name" ||
                fail "$name ended: $(grep -E ' (FATAL|ERROR) |Exception' "$dir/log/$name.log" | tail -1 | cut -c 1-300)" \
                    "(see $dir/log/$name.log)"
        done
        ((SECONDS < give_up)) || fail "$what not ready after $wait_s s (see $dir/log)"
        sleep 0.2
    done
}

hdfs_ready() {
    bean "${port[NAMENODE_HTTP]}" "Hadoop:service=NameNode,name=FSNamesystemState" | grep -qx "NumLiveDataNodes=$datanodes" &&
        bean "${port[NAMENODE_HTTP]}" "Hadoop:service=NameNode,name=NameNodeInfo" | grep -qx "Safemode="
}

yarn_ready() {
    bean "${port[RM_HTTP]}" "Hadoop:service=ResourceManager,name=ClusterMetrics" | grep -qx "NumActiveNMs=1"
}

if [[ ! -d $dir/namenode/current ]]; then
    (cd "$dir" && "$java" "$heap" "${options[@]}" -cp "$class_path" org.apache.hadoop.hdfs.server.namenode.NameNode \
        -format -nonInteractive) >"$dir/log/format.log" 2>&1 || fail "cannot format $dir/namenode (see $dir/log/format.log)"
fi
start namenode org.apache.hadoop.hdfs.server.namenode.NameNode
servers=(namenode)
for ((i = 0; i < datanodes; i++)); do
    start "datanode-$i" org.apache.hadoop.hdfs.server.datanode.DataNode \
        -D "dfs.datanode.data.dir=file://$dir/datanode-$i" -D dfs.datanode.hostname=127.0.0.1 \
        -D "dfs.datanode.address=127.0.0.1:${port[DATA_$i]}" \
        -D "dfs.datanode.ipc.address=127.0.0.1:${port[DATA_IPC_$i]}" \
        -D "dfs.datanode.http.address=127.0.0.1:${port[DATA_HTTP_$i]}"
    servers+=("datanode-$i")
done
if [[ -n $yarn ]]; then
    start resourcemanager org.apache.hadoop.yarn.server.resourcemanager.ResourceManager
    start nodemanager org.apache.hadoop.yarn.server.nodemanager.NodeManager
fi
await HDFS "${servers[@]}" -- hdfs_ready
echo "HDFS: hdfs://127.0.0.1:${port[NAMENODE]}, $datanodes DataNodes, http://127.0.0.1:${port[NAMENODE_HTTP]}"
if [[ -n $yarn ]]; then
    await YARN resourcemanager nodemanager -- yarn_ready
    echo "YARN: http://127.0.0.1:${port[RM_HTTP]}"
fi
echo "export HADOOP_CONF_DIR=$dir/conf"
