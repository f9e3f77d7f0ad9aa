/* What the borrowed thread and the new one run, x86-64. Bytes of it are in stub_x86_64.py; a test assembles and compares.
   Page of code at `base`, data 64 KiB behind it. Position independent, never rewritten, never unmapped. */
        .intel_syntax noprefix
        .set    DATA, 0x10000
        .set    LEFT, 0x00              /* set by the borrowed thread with its last store */
        .set    RESULT, 0x08            /* of pthread_create */
        .set    DONE, 0x10              /* set by the new thread with its last store */
        .set    PTHREAD_CREATE, 0x20
        .set    PTHREAD_SELF, 0x28
        .set    PTHREAD_DETACH, 0x30
        .set    PY_IS_INITIALIZED, 0x38
        .set    PY_GIL_ENSURE, 0x40
        .set    PY_RUN_SIMPLE_STRING, 0x48
        .set    PY_GIL_RELEASE, 0x50
        .set    THREAD, 0x58
        .set    XSAVE, 0x1000
        .set    TEXT, 0x8000
base:   .ascii  "vtprof-attach-1\0"

/* All registers are the thread's own but rip, rcx (where to go on: a system call leaves it undefined) and, where a call
   is to be made again, rax. */
borrowed:
        lea     rsp, [rsp - 128]        /* the red zone */
        push    rcx
        pushfq
        push    rax
        push    rcx
        push    rdx
        push    rbx
        push    rbp
        push    rsi
        push    rdi
        push    r8
        push    r9
        push    r10
        push    r11
        push    r12
        push    r13
        push    r14
        push    r15
        cld
        mov     rbp, rsp
        and     rsp, -64
        lea     rbx, [rip + base + DATA]
        mov     eax, -1
        mov     edx, -1
        xsave64 [rbx + XSAVE]
        lea     rdi, [rbx + THREAD]
        xor     esi, esi
        lea     rdx, [rip + thread]
        mov     rcx, rbx
        call    [rbx + PTHREAD_CREATE]
        mov     eax, eax
        mov     [rbx + RESULT], rax
        mov     eax, -1
        mov     edx, -1
        xrstor64 [rbx + XSAVE]
        mov     rsp, rbp
        mov     qword ptr [rbx + LEFT], 1
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     r11
        pop     r10
        pop     r9
        pop     r8
        pop     rdi
        pop     rsi
        pop     rbp
        pop     rbx
        pop     rdx
        pop     rcx
        pop     rax
        popfq
        ret     128

thread:
        push    rbx
        push    rbp
        sub     rsp, 8
        mov     rbx, rdi
        call    [rbx + PTHREAD_SELF]
        mov     rdi, rax
        call    [rbx + PTHREAD_DETACH]
        call    [rbx + PY_IS_INITIALIZED]
        test    eax, eax
        je      1f
        call    [rbx + PY_GIL_ENSURE]
        mov     ebp, eax
        lea     rdi, [rbx + TEXT]
        call    [rbx + PY_RUN_SIMPLE_STRING]
        mov     edi, ebp
        call    [rbx + PY_GIL_RELEASE]
1:      mov     qword ptr [rbx + DONE], 1
        add     rsp, 8
        pop     rbp
        pop     rbx
        xor     eax, eax
        ret
