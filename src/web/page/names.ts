// What exits are called on the page: the device's and the register's own name, and the way it was touched.
// The names are those of machine/trace/trace-summary.ts, as `microvisor trace` prints them.
import { deviceNames, registerName, type DeviceNames } from '../../machine/trace/trace-summary.js';
import type { TraceDevice } from '../../machine/trace/trace-format.js';
import { EXIT_NAMES } from '../../vcpu/observe/exit-names.js';
import { hex } from './dom.js';
import type { ExitRow } from '../protocol.js';

type Access = Pick<NonNullable<ExitRow['access']>, 'space' | 'address' | 'isWrite'>;

const VERBS = { port: ['in', 'out'], mmio: ['read', 'write'], msr: ['rdmsr', 'wrmsr'] } as const;

export class Names {
  readonly #device: DeviceNames;

  constructor(private readonly devices: readonly TraceDevice[]) {
    this.#device = deviceNames(devices);
  }

  device({ space, address }: Access): string {
    return space === 'msr' ? 'MSR' : this.#device(space, address);
  }

  /** The register's name, or the offset in the device, or the address where there is none. */
  register(access: Access): string {
    const known = registerName(this.devices, access);
    if (known !== undefined) return known;
    const device = this.devices.find(
      ({ space, base, length }) => space === access.space && access.address >= base && access.address < base + length,
    );
    return device === undefined ? hex(access.address) : `+${hex(access.address - device.base)}`;
  }

  verb({ space, isWrite }: Access): string {
    return VERBS[space][isWrite ? 1 : 0];
  }

  /** To what an exit belongs, for its colour. */
  owner({ reason, access }: Pick<ExitRow, 'reason' | 'access'>): string {
    return access === undefined ? reasonName(reason) : this.device(access);
  }

  exit(row: Pick<ExitRow, 'reason' | 'access'>): string {
    const { access } = row;
    if (access === undefined) return reasonName(row.reason);
    return `${this.verb(access)} ${this.device(access)} ${this.register(access)}`;
  }
}

function reasonName(reason: number): string {
  return shortReason(EXIT_NAMES[reason] ?? `exit reason ${reason}`);
}

/** `KVM_EXIT_IO` → `IO`. */
export function shortReason(reason: string): string {
  return reason.replace(/^KVM_EXIT_/, '');
}
