// The test files that run on the SVM host, and how long each takes there.
import { readdirSync } from 'node:fs';

/** Those whose outcome depends on the host's KVM. */
const FOLDERS = ['kvm', 'linux'];

/**
 * The command's options, messages and terminal are the same on every host; linux/ has the command with a guest. A benchmark
 * measures QEMU here, and takes a third of all the time for it. A page looks the same on every host, and a browser there
 * would take minutes to draw it; kvm/explore has what it shows.
 */
const ELSEWHERE = /^kvm\/(cli|exits-bench|explore-page)/;

/** Seconds of one run; a file without a row counts as a short one. */
const SECONDS = {
  'kvm/doctor': 98,
  'kvm/explore': 40,
  'kvm/gdb': 42,
  'kvm/hardening': 20,
  'kvm/hostile-io': 67,
  'kvm/lessons': 37,
  'kvm/machine': 73,
  'kvm/run-control': 60,
  'kvm/snapshot': 80,
  'kvm/user-devices': 111,
  'kvm/vcpu-thread': 20,
  'kvm/vcpu-trace': 20,
  'kvm/virtio-hostile': 43,
  'kvm/virtio-hostile-cases': 35,
  'linux/block': 60,
  'linux/block-power-loss': 100,
  'linux/boot': 100,
  'linux/cli': 120,
  'linux/console': 45,
  'linux/disk-guest': 60,
  'linux/fork': 60,
  'linux/net': 120,
  'linux/snapshot': 100,
  'linux/stock': 100,
  'linux/testing': 80,
};
const SHORT = 8;

/** @returns paths below dist/test, the longest first */
export function svmFiles() {
  return FOLDERS.flatMap((folder) =>
    readdirSync(new URL(`../../dist/test/${folder}`, import.meta.url))
      .filter((name) => name.endsWith('.test.js'))
      .map((name) => `${folder}/${name.slice(0, -'.test.js'.length)}`),
  )
    .filter((name) => !ELSEWHERE.test(name))
    .toSorted((a, b) => weigh(b) - weigh(a) || (a < b ? -1 : 1))
    .map((name) => `dist/test/${name}.test.js`);
}

/** Deals the files out to so many hosts that all are busy to the end: the longest first, each to who has least to do. */
export function deal(files, count) {
  const hosts = Array.from({ length: count }, () => ({ seconds: 0, files: [] }));
  for (const file of files) {
    const host = hosts.reduce((least, other) => (other.seconds < least.seconds ? other : least));
    host.seconds += weigh(file);
    host.files.push(file);
  }
  return hosts.map((host) => host.files);
}

function weigh(file) {
  return SECONDS[/(\w+\/[\w-]+)(\.test\.js)?$/.exec(file)?.[1]] ?? SHORT;
}
