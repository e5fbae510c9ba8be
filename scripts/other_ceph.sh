#!/bin/sh
# Puts the Ceph of another Debian release into a directory, for tests with its daemons or its librbd:
#   scripts/other_ceph.sh trixie /var/tmp/ceph-trixie
#   GUREUM_TEST_CEPH=/var/tmp/ceph-trixie pytest tests/system/san      its monitors, managers and OSDs
#   GUREUM_TEST_LIBRBD=/var/tmp/ceph-trixie pytest tests/system/san    its librbd
# Nothing is installed on this machine: packages are unpacked into DIR/root, and DIR/bin has programs that run
# there, with this machine's directories mounted for them alone. Needs root, 1 GB, and a few minutes.
set -eu

suite=${1:?usage: other_ceph.sh SUITE DIR}
directory=$(realpath -m "${2:?usage: other_ceph.sh SUITE DIR}")
checkout=$(realpath "$(dirname "$0")/..")
root=$directory/root
apt=$directory/apt

mkdir -p "$apt/etc/apt/apt.conf.d" "$apt/etc/apt/preferences.d" "$apt/var/lib/apt/lists/partial" \
    "$apt/var/cache/apt/archives/partial" "$apt/var/lib/dpkg" "$root" "$directory/bin"
: >"$apt/var/lib/dpkg/status"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    >"$apt/etc/apt/sources.list"
set -- -q -o "Dir=$apt" -o "Dir::State::status=$apt/var/lib/dpkg/status" -o APT::Install-Recommends=false \
    -o APT::Sandbox::User=root
apt-get "$@" update
apt-get "$@" -y --download-only install base-files bash coreutils ceph-mon ceph-mgr ceph-osd python3-rados python3-rbd
for package in "$apt"/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
done
cp /etc/passwd /etc/group "$root/etc/"

cat >"$directory/enter" <<EOF_ENTER
#!/bin/sh
# Runs the program of its own name in $root, with the same process id.
exec unshare --mount --propagation private sh -c '
for path in /dev /proc /sys /run /tmp /var/tmp $checkout; do
    mkdir -p "$root\$path"
    mount --rbind "\$path" "$root\$path"
done
exec chroot "$root" "\$@"' enter "\$(basename "\$0")" "\$@"
EOF_ENTER
chmod +x "$directory/enter"
ln -sf enter "$directory/python3"
for program in ceph-mon ceph-mgr ceph-osd monmaptool osdmaptool; do
    ln -sf ../enter "$directory/bin/$program"
done
PATH=$directory/bin:$PATH ceph-osd --version
