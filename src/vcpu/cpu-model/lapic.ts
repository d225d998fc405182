// The boot processor's local interrupt pins, as firmware leaves them for an operating system.
// Intel SDM vol. 3A §10.5.1 (local vector table); MP specification 1.4 §3.6.2.2 (virtual wire mode).

const LVT_LINT0 = 0x350;
const LVT_LINT1 = 0x360;
/** Delivery modes of an LVT entry, bits 10:8; bit 16, the mask, is clear. */
const DELIVERY_NMI = 0b100 << 8;
const DELIVERY_EXTINT = 0b111 << 8;

/**
 * LINT0 carries the 8259's interrupts, LINT1 NMIs. Only on the boot processor: others leave INIT with all entries
 * masked (SDM vol. 3A §10.4.7.1), and software sets them.
 * @param state KVM_GET_LAPIC's bytes
 * @returns bytes for KVM_SET_LAPIC
 */
export function withBootPins(state: Uint8Array): Uint8Array {
  const result = state.slice();
  const view = new DataView(result.buffer);
  view.setUint32(LVT_LINT0, DELIVERY_EXTINT, true);
  view.setUint32(LVT_LINT1, DELIVERY_NMI, true);
  return result;
}
