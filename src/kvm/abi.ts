// The kernel's interface as constants and structure tables, spelled as in the uapi headers: one door to all of them.
// KVM API chapters 4 and 5; <linux/kvm.h>, <asm/kvm.h>.
export * from './abi-cap.js';
export * from './abi-exit.js';
export * from './abi-flag.js';
export * from './abi-ioctl.js';
export * from './abi-struct.js';
