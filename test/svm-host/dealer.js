// Deals the test files out to the emulated hosts, so that all of them are busy to the end (vitest's --shard would go by
// the files' names). The seconds are those of one run; a file without a row counts as a short one.
import { BaseSequencer } from 'vitest/node';

const SECONDS = {
  'kvm/doctor': 98,
  'kvm/explore': 40,
  'kvm/gdb': 42,
  'kvm/hardening': 20,
  'kvm/hostile-io': 67,
  'kvm/lessons': 37,
  'kvm/machine': 73,
  'kvm/snapshot': 80,
  'kvm/user-devices': 111,
  'kvm/vcpu-thread': 20,
  'kvm/virtio-hostile': 43,
  'linux/block': 60,
  'linux/block-power-loss': 100,
  'linux/boot': 100,
  'linux/cli': 120,
  'linux/console': 45,
  'linux/disk-guest': 60,
  'linux/net': 120,
  'linux/stock': 100,
  'linux/testing': 80,
};
const SHORT = 8;

export class Dealer extends BaseSequencer {
  /** The longest file first, each to the host that has the least to do so far. */
  async shard(files) {
    const { index, count } = this.ctx.config.shard;
    const hosts = Array.from({ length: count }, () => ({ seconds: 0, files: [] }));
    const weigh = ({ moduleId }) => SECONDS[/(\w+\/[\w-]+)\.test\.js$/.exec(moduleId)?.[1]] ?? SHORT;
    const sorted = files.toSorted((a, b) => weigh(b) - weigh(a) || (a.moduleId < b.moduleId ? -1 : 1));
    for (const file of sorted) {
      const host = hosts.reduce((least, other) => (other.seconds < least.seconds ? other : least));
      host.seconds += weigh(file);
      host.files.push(file);
    }
    return hosts[index - 1].files;
  }

  /** As dealt: the longest first. */
  async sort(files) {
    return files;
  }
}
