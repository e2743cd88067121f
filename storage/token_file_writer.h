// Writes NAME.bin, NAME.idx and NAME.json (see token_file.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "cluster/base/status.h"
#include "storage/output_file.h"
#include "storage/token_file.h"

namespace trireme {

// Streams documents to disk; memory does not grow with the corpus (document lengths go through a
// temporary file as well). Nothing appears under its name before Finish or FinishSplit; then .bin,
// .idx and .json appear in this order, so that a crash leaves a pair that Open() refuses, never one
// that reads wrong. Errors are kStorage. Not thread-safe.
class TokenFileWriter {
 public:
  // `name`: without extension. info.vocab_size decides the dtype.
  static Result<std::unique_ptr<TokenFileWriter>> Create(const std::string& name,
                                                         const TokenFileInfo& info);

  // One document; ids in [0, vocab_size), its end-of-text token included. CHECKs that it has any.
  Status AddDocument(std::span<const int32_t> ids);

  // Replaces what NAME.json will say; vocab_size stays as it was at Create().
  void SetInfo(TokenFileInfo info);

  // Writes the files. The object is spent afterwards.
  Status Finish();
  // The last `validation_tokens` tokens become `validation_name`, the rest `train_name`; the
  // document at the cut is divided between them. 0 < validation_tokens < tokens().
  Status FinishSplit(const std::string& train_name, const std::string& validation_name,
                     int64_t validation_tokens);

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }

 private:
  TokenFileWriter(TokenFileInfo info, TokenDtype dtype);

  TokenFileInfo info_;
  TokenDtype dtype_;
  std::unique_ptr<OutputFile> bin_;
  std::unique_ptr<OutputFile> lengths_;  // int32 a document; never committed
  std::string name_;
  std::string scratch_;
  int64_t tokens_ = 0;
  int64_t documents_ = 0;
};

}  // namespace trireme
