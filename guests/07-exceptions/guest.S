# Lesson 7: exceptions. Two instructions fault; a handler each repairs the cause, and the instruction runs again.
# SDM vol. 3A §6.5 (faults), §6.10, §6.14 (IDT and frames in 64-bit mode), §6.13 (error code), §4.7 (page faults).

        .intel_syntax noprefix
        .include "long-mode.S"        # in guests/ladder/: lesson 6 as a macro, and a macro for a gate
        .globl  start

        .set    DE, 0                   # divide error (SDM vol. 3A §6.15 lists the vectors)
        .set    PF, 14                  # page fault
        .set    NOWHERE, 0x40000000     # 1 GiB: in no table
        .set    MY_PD, FREE_TABLES
        .set    FRAME, 0x200000         # what NOWHERE will be: a page of 2 MiB
        .set    FOUND, 0x9000           # for the VMM: error code, CR2 and RIP of the page fault

        .code16
start:  enter_long_mode
        set_gate DE, on_divide_error
        set_gate PF, on_page_fault
        lidt    [idtr]

        mov     eax, 42
        xor     edx, edx
        xor     ecx, ecx
        div     ecx                     # by 0: #DE. The handler makes ECX 6, and this instruction runs again
        add     al, '0'
        out     0xe9, al

        mov     ebx, NOWHERE
        mov     dword ptr [rbx], 0x2a   # not mapped: #PF. The handler maps it, and this instruction runs again
        mov     eax, [rbx]              # no fault any more
        out     0xe9, al
        hlt

# The processor has pushed SS, RSP, RFLAGS, CS and RIP. A fault's RIP is that of the instruction itself, so IRETQ tries
# it once more.
on_divide_error:
        mov     ecx, 6
        iretq

# Some vectors push an error code as well, and #PF is one. IRETQ does not expect it: it has to go first.
on_page_fault:
        push    rax
        mov     rax, [rsp + 8]
        mov     [FOUND], rax            # bit 0: 0, the page was not present; bit 1: 1, a write (§4.7)
        mov     rax, cr2                # the address that was not there
        mov     [FOUND + 8], rax
        mov     rax, [rsp + 16]
        mov     [FOUND + 16], rax
        mov     qword ptr [MY_PD], FRAME | LARGE_PAGE | PRESENT_WRITABLE
        mov     qword ptr [LOW_PDPT + (NOWHERE >> 30) * 8], MY_PD | PRESENT_WRITABLE
        pop     rax
        add     rsp, 8                  # the error code
        iretq

        long_mode_gdt
        empty_idt 32
