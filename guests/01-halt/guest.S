# Lesson 1: the smallest guest. It computes, and stops.
# A vCPU after reset is in real mode: 16-bit code, no page tables, no descriptors (SDM vol. 3A §9.1).

        .intel_syntax noprefix
        .code16
        .globl  start
start:
        mov     ax, 40
        add     ax, 2
        hlt                     # Nobody will interrupt: KVM gives the processor back, KVM_EXIT_HLT
