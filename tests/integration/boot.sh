# Boots the systemd of this machine in namespaces, over a copy of its root file system that nothing comes back from: what is written goes to
# a tmpfs (overlayfs). The network is loopback alone. `sh boot.sh outside FOLDER`, as root; FOLDER is /mnt inside, and holds
# what is printed (`console`) and the control group (`cgroup`).
set -eu
if [ "$1" = outside ]; then
  # A group of its own, so that systemd finds an empty one. On machines that still have version 1 beside it, version 2 is elsewhere.
  groups=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)
  mkdir "$groups/gatepost-test-$$"
  echo "$groups/gatepost-test-$$" > "$2/cgroup"
  echo $$ > "$groups/gatepost-test-$$/cgroup.procs"
  exec unshare --mount --pid --fork --kill-child --cgroup --net --uts --ipc sh "$0" inside "$2"
fi
folder=$2
mount --make-rprivate /
mkdir "$folder/over"
mount -t tmpfs none "$folder/over"
mkdir "$folder/over/upper" "$folder/over/work" "$folder/over/root"
root=$folder/over/root
mount -t overlay -o "lowerdir=/,upperdir=$folder/over/upper,workdir=$folder/over/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -o bind,ro "$root/proc/sys" "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
for place in sys/fs/cgroup dev run tmp; do mount -t tmpfs none "$root/$place"; done
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for device in null zero full random urandom tty; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
: > "$root/dev/console"
mount --bind "$folder/console" "$root/dev/console"
mount --bind "$folder" "$root/mnt"
cd "$root"
# Nothing of what this machine starts, and nothing that is the kernel's.
rm -rf etc/systemd/system/*.wants usr/sbin/policy-rc.d etc/machine-id
: > etc/machine-id
for unit in systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-udevd.service systemd-udev-trigger.service \
  systemd-random-seed.service systemd-binfmt.service systemd-pstore.service systemd-timesyncd.service systemd-logind.service; do
  ln -sf /dev/null "etc/systemd/system/$unit"
done
pivot_root . mnt/old
umount --lazy /mnt/old
# As systemd wants it of whoever starts it: its helpers mount for it (credentials).
mount --make-rshared /
export container=gatepost-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /lib/systemd/systemd --unit=basic.target --show-status=no
