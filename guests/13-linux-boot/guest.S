# Lesson 13: a kernel, as Linux' boot protocol sees one. It says what its boot loader has told it.
# Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "32-bit Boot Protocol"), zero-page.rst.

        .intel_syntax noprefix
        .globl  start

        .set    DEBUG_PORT, 0xe9
        .set    HEADER, 0x202           # in boot_params, where the setup header lies as in the file
        .set    TYPE_OF_LOADER, 0x210
        .set    CMD_LINE_PTR, 0x228
        .set    E820_ENTRIES, 0x1e8
        .set    E820_TABLE, 0x2d0       # of 20 bytes each: address and size of 64 bits, type of 32
        .set    SETUP_SECTORS, 1

# The file begins with the real-mode part: a boot sector that nobody starts any more, and the setup header at its end.
image:
start:  .org    0x1f1
        .byte   SETUP_SECTORS           # setup_sects: the protected-mode part begins behind so many sectors and this one
        .org    0x1fe
        .word   0xaa55                  # boot_flag
        .byte   0xeb, header_end - header
header: .ascii  "HdrS"
        .word   0x020f                  # version of the protocol: 2.15
        .org    0x211
        .byte   1                       # loadflags: LOADED_HIGH, the protected-mode part belongs at 1 MiB
        .org    0x214
        .long   0x100000                # code32_start
        .org    0x230
        .long   0x1000                  # kernel_alignment
        .org    0x238
        .long   2047                    # cmdline_size
header_end:
        .org    (SETUP_SECTORS + 1) * 512

# The protected-mode part. boot.rst: "the CPU must be in 32-bit protected mode with paging disabled; a GDT must be loaded
# with the descriptors for selectors __BOOT_CS (0x10) and __BOOT_DS (0x18) …; %esi must hold the base address of the
# struct boot_params; %ebp, %edi and %ebx must be zero."
        .code32
kernel:
        mov     esp, 0x90000
        mov     ebp, esi

        cmp     dword ptr [ebp + HEADER], 0x53726448
        mov     esi, offset no_header
        jne     complain
        cmp     byte ptr [ebp + TYPE_OF_LOADER], 0
        mov     esi, offset no_loader
        je      complain
        mov     esi, [ebp + CMD_LINE_PTR]
        test    esi, esi
        jz      2f
        push    esi
        mov     esi, offset command_line
        call    print
        pop     esi
        call    print
        call    line_feed

2:      movzx   ecx, byte ptr [ebp + E820_ENTRIES]
        test    ecx, ecx
        mov     esi, offset no_map
        jz      complain
        lea     ebx, [ebp + E820_TABLE]
3:      mov     esi, offset memory
        call    print
        mov     eax, [ebx]
        call    print_hex
        mov     al, '+'
        out     DEBUG_PORT, al
        mov     eax, [ebx + 8]
        call    print_hex
        mov     al, ' '
        out     DEBUG_PORT, al
        mov     al, [ebx + 16]          # 1: usable, 2: reserved
        add     al, '0'
        out     DEBUG_PORT, al
        call    line_feed
        add     ebx, 20
        loop    3b
        hlt

complain:
        call    print
        call    line_feed
        hlt

print:  lodsb
        test    al, al
        jz      4f
        out     DEBUG_PORT, al
        jmp     print
4:      ret

line_feed:
        mov     al, '\n'
        out     DEBUG_PORT, al
        ret

print_hex:                              # EAX, eight digits
        push    ecx
        mov     edx, eax
        mov     ecx, 8
5:      rol     edx, 4
        mov     al, dl
        and     al, 0xf
        cmp     al, 10
        jb      6f
        add     al, 'a' - '0' - 10
6:      add     al, '0'
        out     DEBUG_PORT, al
        loop    5b
        pop     ecx
        ret

command_line:   .asciz  "command line: "
memory:         .asciz  "memory: "
no_header:      .asciz  "no setup header in boot_params"
no_loader:      .asciz  "type_of_loader is 0: no boot loader was here"
no_map:         .asciz  "no memory map: e820_entries is 0"
