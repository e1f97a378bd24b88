#!/bin/busybox sh
# shellcheck shell=busybox
# The init process of the virtual machine: builds the root from three layers and switches to it. From the bottom: the
# machine's tree (host), the kernel's files (kernel), memory for writes; the results are a share of their own.
b=/bin/busybox share=trans=virtio,version=9p2000.L,msize=512000
$b mount -t proc proc /proc
for module in /modules/*; do $b insmod "$module"; done
$b mount -t 9p -o $share,ro,cache=loose host /host
$b mount -t 9p -o $share,ro,cache=loose kernel /kernel
$b mount -t tmpfs -o size=75% tmpfs /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/kernel:/host,upperdir=/rw/upper,workdir=/rw/work root /root
cd /root || exit
$b mkdir -p results
$b mount -t 9p -o $share results results
$b mount -t proc proc proc
$b mount -t sysfs sys sys
$b mount -t cgroup2 cgroup sys/fs/cgroup
$b mount -t devtmpfs dev dev
$b mkdir -p dev/pts dev/shm dev/net
$b mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
$b mount -t tmpfs tmp dev/shm
$b mount -t tmpfs tmp run
$b mount -t tmpfs tmp tmp
$b mkdir -p run/lock run/netns
$b umount /proc
exec $b switch_root /root /bin/sh /results/start
