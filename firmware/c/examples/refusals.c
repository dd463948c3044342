/* What the library refuses, each with the status that says why. */
#include "start.h"
#define DIGITS_IMPLEMENTATION
#include "digits.h"

static sf_model model;
static sf_session session;
DIGITS_ALIGN16 static uint8_t arena[DIGITS_ARENA_BYTES];
/* The model once more, to be damaged. */
DIGITS_ALIGN16 static uint8_t copy[DIGITS_MODEL_BYTES];

static int expected(const char *what, sf_status status, sf_status wanted) {
    print(what);
    print(": ");
    print(sf_status_text(status));
    print("\n");
    return status == wanted;
}

static sf_status open_copy(size_t n_operators) {
    return sf_model_open(&model, copy, sizeof copy, digits_operators, n_operators);
}

int main(void) {
    size_t bytes = 1;
    for (size_t i = 0; i < sizeof copy; i++) {
        copy[i] = digits_model[i];
    }
    int good = expected("a session without a model", sf_session_start(&session, &model, arena, sizeof arena, NULL, 0),
                        SF_ERROR_ARGUMENT);
    good &= expected("a run without a session", sf_session_run(&session), SF_ERROR_ARGUMENT);
    good &= expected("no storage", sf_model_open(NULL, copy, sizeof copy, digits_operators, DIGITS_N_OPERATORS),
                     SF_ERROR_ARGUMENT);
    good &= expected("a table without its last operator", open_copy(DIGITS_N_OPERATORS - 1), SF_ERROR_OPERATOR_MISSING);
    copy[sizeof copy / 2] ^= 1;
    good &= expected("a damaged model", open_copy(DIGITS_N_OPERATORS), SF_ERROR_CHECKSUM);
    copy[sizeof copy / 2] ^= 1;
    copy[0] ^= 1;
    good &= expected("other bytes", open_copy(DIGITS_N_OPERATORS), SF_ERROR_NOT_A_MODEL);
    copy[0] ^= 1;
    good &= expected("half a model",
                     sf_model_open(&model, copy, sizeof copy / 2, digits_operators, DIGITS_N_OPERATORS), SF_ERROR_LENGTH);
    good &= expected("a model at an odd address",
                     sf_model_open(&model, copy + 4, sizeof copy - 4, digits_operators, DIGITS_N_OPERATORS),
                     SF_ERROR_NOT_A_MODEL);
    good &= expected("the model, every check", open_copy(DIGITS_N_OPERATORS), SF_OK);
    good &= expected("a small arena", sf_session_start(&session, &model, arena, sizeof arena - 16, NULL, 0),
                     SF_ERROR_ARENA_TOO_SMALL);
    good &= expected("an arena at an odd address",
                     sf_session_start(&session, &model, copy + 1, DIGITS_ARENA_BYTES, NULL, 0), SF_ERROR_MISALIGNED);
    good &= expected("a session", sf_session_start(&session, &model, arena, sizeof arena, NULL, 0), SF_OK);
    good &= sf_session_input(&session, 1, &bytes) == NULL && bytes == 0;
    good &= sf_session_output(&session, 0, &bytes) == NULL && bytes == 0;
    good &= expected("a run", sf_session_run(&session), SF_OK);
    good &= sf_session_output(&session, 0, &bytes) != NULL && bytes == 2 * DIGITS_LOGITS_LEN;
    return !good;
}
