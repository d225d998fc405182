// Causes that the guest's own last words tell, seen together with what the machine was given. Rows, the first match wins
// over those of causes.ts. Linux init/main.c, init/do_mounts.c, init/initramfs.c, mm/oom_kill.c, kernel/exit.c.
import { said, type CauseRow, type DoctorEvidence } from './evidence.js';

const NO_INIT = /No working init found|Requested init \S+ failed|Failed to execute \/?\S*init|Attempted to run init/;
const NO_ROOT = /VFS: Unable to mount root fs|VFS: Cannot open root device/;
const UNPACK =
  /Initramfs unpacking failed(.*)|invalid magic at start of compressed archive|rootfs image is not initramfs/;
const OUT_OF_MEMORY =
  /System is deadlocked on memory|Out of memory(?: and no killable processes)?|Cannot allocate.*memblock|memblock.*(?:failed|exhausted)/i;
const INIT_KILLED = /Attempted to kill init! exitcode=0x([0-9a-f]{8})/;
const PANIC = /Kernel panic - not syncing:?(.*)/;

const isDisk = ({ name }: { readonly name: string }): boolean => /^disk\d+$/.test(name);

export const TEXT_CAUSES: readonly CauseRow[] = [
  {
    id: 'initrd-not-unpacked',
    find: (evidence) =>
      said(evidence, UNPACK) && evidence.hasInitrd
        ? {
            cause: `the kernel could not unpack the initrd${formOf(evidence)}`,
            remedy:
              'compress it as the kernel was built to read it (CONFIG_RD_GZIP, CONFIG_RD_ZSTD…), or leave it uncompressed',
          }
        : undefined,
  },
  {
    id: 'ram-too-small',
    find: (evidence) =>
      said(evidence, OUT_OF_MEMORY)
        ? {
            cause: `${evidence.memory.size / 2 ** 20} MiB of RAM are too small for this kernel and its initrd`,
            remedy: 'give it more: --mem 256',
          }
        : undefined,
  },
  {
    id: 'no-init-in-initrd',
    find: (evidence) =>
      (said(evidence, NO_INIT) || said(evidence, NO_ROOT)) && evidence.initrd?.hasInit === false
        ? {
            cause: 'the initrd has no /init, so the kernel has nothing to start',
            remedy: 'put an executable /init into its top folder, or name another with rdinit=',
          }
        : undefined,
  },
  {
    id: 'no-virtio-mmio',
    find: (evidence) =>
      said(evidence, NO_ROOT) && evidence.virtio.some(isDisk) && !touchedVirtio(evidence)
        ? {
            cause: 'the kernel never looked at its disk: it has no driver for virtio-mmio',
            remedy:
              'build it with CONFIG_VIRTIO_MMIO, CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES and CONFIG_VIRTIO_BLK, or load them in an initrd',
          }
        : undefined,
  },
  {
    id: 'no-root',
    find: (evidence) =>
      said(evidence, NO_ROOT) && !evidence.hasInitrd && !evidence.virtio.some(isDisk)
        ? {
            cause: 'the kernel looks for a root file system, and the machine has neither an initrd nor a disk',
            remedy: 'give it one: --initrd FILE, or --disk FILE with root=/dev/vda on the command line',
          }
        : undefined,
  },
  {
    id: 'root-not-found',
    isGeneral: true,
    find: (evidence) =>
      said(evidence, NO_ROOT)
        ? {
            cause: 'the kernel could not mount its root file system',
            remedy:
              'does root= name a disk of this machine (/dev/vda and on), and is its file system built into the kernel?',
          }
        : undefined,
  },
  {
    id: 'no-init',
    isGeneral: true,
    find: (evidence) =>
      said(evidence, NO_INIT)
        ? {
            cause: 'the kernel found no program to start as init',
            remedy: 'is it there, executable, for this processor, and is its interpreter (ld.so) there, too?',
          }
        : undefined,
  },
  {
    id: 'init-ended',
    find(evidence) {
      const [, digits] = said(evidence, INIT_KILLED) ?? [];
      if (digits === undefined) return undefined;
      const code = Number.parseInt(digits, 16);
      const how =
        (code & 0x7f) === 0 ? `ended with status ${(code >> 8) & 0xff}` : `was killed by signal ${code & 0x7f}`;
      return {
        cause: `init, the guest's first program, ${how}; it must never end`,
        remedy: 'look at what it printed last; a shell script as init should end with poweroff -f',
      };
    },
  },
  {
    id: 'kernel-panic',
    isGeneral: true,
    find(evidence) {
      const [, why] = said(evidence, PANIC) ?? [];
      return why === undefined
        ? undefined
        : {
            cause: `the kernel panicked:${why}`,
            remedy: 'the lines before it on the console say where; quiet on the command line hides them',
          };
    },
  },
];

function formOf({ initrd }: DoctorEvidence): string {
  return initrd === undefined || initrd.form === 'other' ? '' : ` (${initrd.form})`;
}

function touchedVirtio({ exits, virtio }: DoctorEvidence): boolean {
  const names = new Set(virtio.map(({ name }) => name));
  return exits.some(({ mmio }) => mmio.some(({ device }) => names.has(device)));
}
