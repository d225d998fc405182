// Notices within a second that every CPU is halted with interrupts off: nothing can wake such a guest any more.
// Intel SDM vol. 2 (HLT): an enabled interrupt, NMI or reset resumes execution; the kernel holds HLT for us.
import { LIVENESS } from '../vcpu/control.js';

/** What the watch sees of one vCPU. */
export interface Watched {
  /** KVM_RUN calls so far. */
  readonly entries: number;
  readonly probes: number;
  readonly liveness: number;
  probe(): void;
}

const PERIOD_MS = 200;

/**
 * Every period in which no vCPU exited, all are probed; when all answer that they are halted with interrupts off (or
 * were never started) twice in a row, `onHalted` is called once. Twice, because an INIT or a SIPI may be on its way.
 */
export function watchForHalt(vcpus: readonly Watched[], onHalted: () => void): { close(): void } {
  let entriesBefore = -1;
  let probesBefore: readonly number[] = [];
  let strikes = 0;
  const timer = setInterval(() => {
    const entries = vcpus.reduce((sum, vcpu) => sum + vcpu.entries, 0);
    const answered = probesBefore.length > 0 && vcpus.every((vcpu, i) => vcpu.probes > (probesBefore[i] ?? 0));
    // Each answered probe is one entry of its own; more than these are exits of the guest.
    const quiet = entriesBefore >= 0 && entries - entriesBefore <= 2 * vcpus.length;
    const dead = vcpus.every((vcpu) => vcpu.liveness !== LIVENESS.ALIVE);
    const boot = vcpus[0]?.liveness === LIVENESS.HALTED;
    strikes = quiet && answered && dead && boot ? strikes + 1 : 0;
    if (strikes === 2) {
      clearInterval(timer);
      onHalted();
      return;
    }
    entriesBefore = entries;
    if (quiet) {
      probesBefore = vcpus.map((vcpu) => vcpu.probes);
      for (const vcpu of vcpus) vcpu.probe();
    } else probesBefore = [];
  }, PERIOD_MS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
