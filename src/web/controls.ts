// What the page may do to a machine: pause, resume, step to an exit or by an instruction, send an NMI, save it.
// One thing at a time, but for `pause`: it ends a step that does not come to its end, and after what else is under way
// the machine stays paused.
import { NO_DEBUGGER } from '../vcpu/debugger.js';
import type { DebugFacilities } from '../vcpu/gdb/points.js';
import { GdbRefusal } from '../vcpu/gdb/target.js';
import { MachineTarget } from '../machine/gdb-target.js';
import type { InspectedMachine } from '../machine/inspected-machine.js';
import type { Vm } from '../machine/vm.js';

/** What a host can lack, for the page; the same limit as gdb's `stepi` has. */
export function stepLimit({ steps }: DebugFacilities): string | undefined {
  return steps
    ? undefined
    : "This host's KVM cannot step programs at CPL 3, nor the instruction that returns to one; " +
        'there a step goes to the next exit only.';
}

/** A request that makes sense but cannot be done now; the message is for the person at the page. */
export class ControlRefusal extends Error {
  override readonly name = 'ControlRefusal';
}

export class Controls {
  readonly #target: MachineTarget;
  readonly #vm: Vm;
  readonly #machine: InspectedMachine;
  readonly #facilities: DebugFacilities;
  #isStepping = false;
  /** While it steps: `pause` came, which may be before the step itself. */
  #isInterrupted = false;
  #isBusy = false;

  constructor(vm: Vm, facilities: DebugFacilities) {
    this.#vm = vm;
    this.#facilities = facilities;
    this.#machine = vm.inspect();
    this.#target = new MachineTarget({ ...this.#machine, facilities });
    void vm.outcome.then(() => this.#target.end(0));
  }

  /** A step is under way. */
  get isStepping(): boolean {
    return this.#isStepping;
  }

  async pause(): Promise<void> {
    if (this.#isStepping) {
      this.#isInterrupted = true;
      this.#target.interrupt();
    } else if (this.#vm.state === 'running' || this.#vm.state === 'paused') await this.#vm.pause();
  }

  async resume(): Promise<void> {
    if (this.#vm.state === 'paused') await this.#alone(() => this.#vm.resume());
  }

  /** Of a running machine it is the pause that comes first. @returns what there is to say about it */
  async step(vcpu: number, action: 'step' | 'exit'): Promise<string | undefined> {
    return this.#alone(async () => {
      this.#isStepping = true;
      this.#isInterrupted = false;
      try {
        if (this.#vm.state === 'running') await this.#vm.pause();
        if (this.#vm.state !== 'paused')
          throw new ControlRefusal(`The machine is ${this.#vm.state}: it cannot be stepped.`);
        if (this.#isInterrupted) return undefined;
        const stop = await this.#target.resume(new Map([[vcpu, action]]));
        if (stop.kind === 'ended') return undefined;
        await this.#disarm();
        return stop.kind === 'failed' ? 'The guest has failed there. It ends when it goes on.' : undefined;
      } catch (error) {
        if (error instanceof GdbRefusal) throw new ControlRefusal(stepLimit(this.#facilities) ?? error.message);
        throw error;
      } finally {
        this.#isStepping = false;
      }
    });
  }

  async nmi(vcpu: number): Promise<void> {
    await this.#alone(() => this.#machine.standing('nmi', async () => this.#vm.vcpus[vcpu]?.call('nmi')));
  }

  async snapshot(folder: string): Promise<void> {
    await this.#alone(() => this.#vm.snapshot(folder));
  }

  async #disarm(): Promise<void> {
    for (const vcpu of this.#vm.vcpus) await vcpu.call('setDebugger', NO_DEBUGGER);
  }

  async #alone<T>(action: () => Promise<T>): Promise<T> {
    if (this.#isBusy) throw new ControlRefusal('The machine is busy with what was asked before.');
    this.#isBusy = true;
    try {
      return await action();
    } finally {
      this.#isBusy = false;
    }
  }
}
