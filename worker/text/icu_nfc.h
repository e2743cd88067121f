// ICU's normaliser to form C.
#pragma once

#include <glog/logging.h>
#include <unicode/normalizer2.h>

namespace trireme {

inline const icu::Normalizer2& IcuNfc() {
  static const icu::Normalizer2* normalizer = [] {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
    CHECK(U_SUCCESS(error)) << "ICU has no NFC data: " << u_errorName(error);
    return nfc;
  }();
  return *normalizer;
}

}  // namespace trireme
