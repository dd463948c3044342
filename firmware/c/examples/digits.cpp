// The same from C++: an inference in bounded steps, and the outputs by way of the session.
#include "start.h"
#define DIGITS_IMPLEMENTATION
#include "digits.h"

namespace {

/// A session of the model over memory of its own.
class Digits {
  public:
    Digits() : status_(digits_open(&model_)) {
        if (status_ == SF_OK) {
            status_ = sf_session_start(&session_, &model_, arena_, sizeof arena_, nullptr, 0);
        }
    }
    Digits(const Digits &) = delete;
    Digits &operator=(const Digits &) = delete;

    sf_status status() const { return status_; }
    size_t receipts() const { return sf_model_receipts(&model_); }
    sf_status prove(size_t receipt) { return sf_session_prove(&session_, receipt, nullptr); }
    sf_status step() { return sf_session_step(&session_); }
    uint8_t *image() { return sf_session_input(&session_, 0, nullptr); }
    const int16_t *logits() { return reinterpret_cast<const int16_t *>(sf_session_output(&session_, 0, nullptr)); }

  private:
    alignas(16) uint8_t arena_[DIGITS_ARENA_BYTES];
    sf_model model_;
    sf_session session_;
    sf_status status_;
};

} // namespace

int main() {
    static uint8_t expected[2 * DIGITS_LOGITS_LEN];
    alignas(Digits) static Digits digits;
    if (digits.status() != SF_OK || digits.receipts() == 0) {
        print(sf_status_text(digits.status()));
        return 1;
    }
    for (size_t receipt = 0; receipt < digits.receipts(); receipt++) {
        if (digits.prove(receipt) != SF_OK) {
            return 1;
        }
    }
    // Of the same input, once by `run` (in `prove`) and once by steps.
    for (uint32_t pass = 0; pass < 2; pass++) {
        if (digits.logits() == nullptr && pass == 0) {
            return 1;
        }
        uint8_t *image = digits.image();
        for (size_t i = 0; i < DIGITS_IMAGE_LEN; i++) {
            image[i] = static_cast<uint8_t>(4 * i);
        }
        if (digits.logits() != nullptr) {
            return 1; // Inputs were handed out: there is no output.
        }
        uint32_t steps = 1;
        sf_status status = digits.step();
        for (; status == SF_RUNNING; steps++) {
            status = digits.step();
        }
        const uint8_t *logits = reinterpret_cast<const uint8_t *>(digits.logits());
        if (status != SF_OK || logits == nullptr) {
            return 1;
        }
        for (size_t i = 0; i < sizeof expected; i++) {
            if (pass > 0 && expected[i] != logits[i]) {
                return 1;
            }
            expected[i] = logits[i];
        }
        print_number(steps);
        print(" steps\n");
    }
    return 0;
}
