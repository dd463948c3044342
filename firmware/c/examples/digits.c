/* Reads handwritten digits and proves, operator by operator, that it computes what the converter did. */
#include "start.h"
#define DIGITS_IMPLEMENTATION
#include "digits.h"

static sf_model model;
static sf_session session;
DIGITS_ALIGN16 static uint8_t arena[DIGITS_ARENA_BYTES];

/* The inference: `cargo xtask size --functions` starts here. */
__attribute__((noinline)) sf_status inference(void) {
    return sf_session_run(&session);
}

static int failed(sf_status status) {
    if (status != SF_OK) {
        print(sf_status_text(status));
        print("\n");
    }
    return status != SF_OK;
}

int main(void) {
    if (failed(digits_open(&model)) || failed(sf_session_start(&session, &model, arena, sizeof arena, NULL, 0))) {
        return 1;
    }
    for (size_t receipt = 0; receipt < sf_model_receipts(&model); receipt++) {
        size_t op = 0;
        if (failed(sf_session_prove(&session, receipt, &op))) {
            return 1;
        }
        const int16_t *logits = digits_logits(arena);
        uint32_t class = 0;
        for (uint32_t i = 1; i < DIGITS_LOGITS_LEN; i++) {
            class = logits[i] > logits[class] ? i : class;
        }
        print("class ");
        print_number(class);
        print(", all operators as on the host\n");
    }
    for (size_t i = 0; i < DIGITS_IMAGE_LEN; i++) {
        digits_image(arena)[i] = 0;
    }
    return failed(inference());
}
