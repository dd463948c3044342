/* Start-up of the examples, and their way to the terminal and the exit status: Arm semihosting. */
#include "start.h"

extern uint32_t stack_top[], data_start[], data_end[], data_load[], bss_start[], bss_end[];

int main(void);
void reset(void);
static void fault(void);

struct vectors {
    uint32_t *stack;
    void (*reset)(void);
    void (*faults[2])(void);
};

__attribute__((section(".vectors"), used)) static const struct vectors vectors = {stack_top, reset, {fault, fault}};

static uint32_t semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void print(const char *text) {
    semihosting(0x04, text);
}

void print_number(uint32_t number) {
    char text[11];
    char *at = text + sizeof text - 1;
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    print(at);
}

static void leave(uint32_t status) {
    const uint32_t block[2] = {0x20026, status};
    for (;;) {
        semihosting(0x20, block);
    }
}

static void fault(void) {
    print("fault\n");
    leave(1);
}

void reset(void) {
#if defined(__ARM_FP)
    /* Access to the floating-point registers, which a hard-float program may use. */
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20;
#endif
    for (uint32_t *to = data_start, *from = data_load; to < data_end;) {
        *to++ = *from++;
    }
    for (volatile uint32_t *to = bss_start; to < bss_end;) {
        *to++ = 0;
    }
    leave((uint32_t)main());
}
