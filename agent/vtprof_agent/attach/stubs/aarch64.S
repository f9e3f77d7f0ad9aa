/* What the borrowed thread and the new one run, aarch64. Bytes of it are in stub_aarch64.py; a test assembles and compares.
   Code at `base`, data 64 KiB behind it (pages may be so large). Never rewritten, never unmapped. */
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
        .set    TEXT, 0x8000
        .set    NR_RT_SIGRETURN, 139
base:   .ascii  "vtprof-attach-1\0"

/* x19 = data, sp = a signal frame on the thread's own stack that holds all its registers: the kernel puts them back. */
borrowed:
        add     x0, x19, #THREAD
        mov     x1, xzr
        adr     x2, thread
        mov     x3, x19
        ldr     x16, [x19, #PTHREAD_CREATE]
        blr     x16
        mov     w0, w0
        str     x0, [x19, #RESULT]
        mov     x0, #1
        stlr    x0, [x19]               /* LEFT, behind all that went before */
        mov     x8, #NR_RT_SIGRETURN
        svc     #0

thread:
        stp     x29, x30, [sp, #-32]!
        mov     x29, sp
        stp     x19, x20, [sp, #16]
        mov     x19, x0
        ldr     x16, [x19, #PTHREAD_SELF]
        blr     x16
        ldr     x16, [x19, #PTHREAD_DETACH]
        blr     x16
        ldr     x16, [x19, #PY_IS_INITIALIZED]
        blr     x16
        cbz     w0, 1f
        ldr     x16, [x19, #PY_GIL_ENSURE]
        blr     x16
        mov     w20, w0
        add     x0, x19, #TEXT
        ldr     x16, [x19, #PY_RUN_SIMPLE_STRING]
        blr     x16
        mov     w0, w20
        ldr     x16, [x19, #PY_GIL_RELEASE]
        blr     x16
1:      mov     x0, #1
        add     x1, x19, #DONE
        stlr    x0, [x1]
        mov     x0, xzr
        ldp     x19, x20, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret
