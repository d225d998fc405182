// Notices within a second that every CPU is halted with interrupts off: nothing can wake such a guest any more.
// Intel SDM vol. 2 (HLT): an enabled interrupt, NMI or reset resumes execution; the kernel holds HLT for us.
import { LIVENESS } from '../vcpu/control.js';

/** What the watch sees of one vCPU. */
export interface Watched {
  /** Processor time of its thread so far. */
  readonly cpuNanoseconds: number;
  /** Its thread runs now, or waits for a processor. */
  readonly isRunnable: boolean;
  /** Probes that it has answered. */
  readonly probes: number;
  /** One of LIVENESS, as of the last probe. */
  readonly liveness: number;
  /** Asks it; a kick, so the guest is interrupted. */
  probe(): void;
}

const PERIOD_MS = 200;
/** A thread that used more of a period than this executes guest code and is not asked. */
const IDLE_NANOSECONDS = 4_000_000;
/** No probe is under way, and none has answered for the state that the vCPU is in. */
const NONE = -1;

/**
 * A vCPU whose thread uses no processor time, and does not wait for any, executes nothing, so only such a one is probed,
 * and again only when it has run since. That leaves a busy guest alone: a kick costs it time, and on one host (KVM without
 * hardware virtualization) a kick in the wrong moment, just before the return to user space, was seen to break the guest.
 * When all answer that they are halted with interrupts off, or were never started, twice in a row (an INIT or SIPI may
 * be on its way), `onHalted` is called once.
 */
export function watchForHalt(vcpus: readonly Watched[], onHalted: () => void): { close(): void } {
  const states = vcpus.map((vcpu) => ({ vcpu, cpu: vcpu.cpuNanoseconds, probe: NONE, isKnown: false }));
  let strikes = 0;
  const timer = setInterval(() => {
    for (const state of states) {
      const { vcpu } = state;
      const ran = vcpu.cpuNanoseconds - state.cpu;
      state.cpu += ran;
      const isBusy = ran > IDLE_NANOSECONDS || vcpu.isRunnable;
      if (isBusy || (state.isKnown && ran > 0)) {
        state.probe = NONE;
        state.isKnown = false;
      }
      if (isBusy) continue;
      if (state.probe === NONE) {
        state.probe = vcpu.probes;
        vcpu.probe();
      } else if (vcpu.probes > state.probe) state.isKnown = true;
    }
    const isQuiet = states.every(({ isKnown }) => isKnown);
    const isDead = vcpus[0]?.liveness === LIVENESS.HALTED && vcpus.every(({ liveness }) => liveness !== LIVENESS.ALIVE);
    strikes = isQuiet && isDead ? strikes + 1 : 0;
    if (strikes === 2) {
      clearInterval(timer);
      onHalted();
    }
  }, PERIOD_MS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
