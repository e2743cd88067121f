// TOKENS: files of token ids, read as one stream of documents, end to end.
//
// NAME.bin + NAME.idx: Megatron's indexed dataset (magic MMIDIDX, version 1), byte for byte, so
// that its users' data work as they are and ours work there. NAME.json beside says what the ids
// mean. A .bin without .idx is read as an llm.c shard (magic 20240520, 16-bit ids of GPT-2; magic
// 20240801, 32-bit ids of Llama 3), whose documents begin with the end-of-text token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// TOKENS are named with and without the ending of one of their files: without.
std::string WithoutTokensEnding(std::string name);

// Codes of Megatron's DType; the ones that can hold token ids.
enum class TokenDtype : uint8_t { kUint8 = 1, kInt16 = 3, kInt32 = 4, kInt64 = 5, kUint16 = 8 };

const char* TokenDtypeName(TokenDtype dtype);
int64_t TokenDtypeBytes(TokenDtype dtype);
// uint16 below 65,500 ids and int32 from there on, as Megatron chooses.
TokenDtype TokenDtypeFor(int64_t vocab_size);

// What NAME.json holds. Fields that a file does not name keep these defaults.
struct TokenFileInfo {
  std::string tokenizer_hash;
  // A file or folder; in NAME.json relative to its folder where the copy lies beside it. Resolved
  // against that folder when read. Empty: unknown.
  std::string tokenizer_path;
  int64_t vocab_size = 0;  // 0: unknown
  std::optional<int32_t> end_of_text;
  std::string
      bin_checksum;  // XXH3-128 of NAME.bin and NAME.idx, 32 hexadecimal digits; may be empty
  std::string idx_checksum;
};

// A memory-mapped token file. Immutable after Open(); safe to read from many threads.
class TokenFile {
 public:
  struct Options {
    // Up to this size Open() also compares NAME.bin with the checksum in NAME.json. Larger ones
    // are compared by VerifyChecksum().
    int64_t verify_bytes_max = int64_t{1} << 30;
  };

  // `path`: NAME, NAME.bin or NAME.idx, or file:/// before any. kDataLoss, with path, expected and
  // found: missing, truncated, wrong magic or version, sizes or checksums that do not agree.
  static Result<std::unique_ptr<TokenFile>> Open(const std::string& path, const Options& options);
  static Result<std::unique_ptr<TokenFile>> Open(const std::string& path) {
    return Open(path, Options());
  }
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  TokenDtype dtype() const { return dtype_; }
  // NAME.bin, for messages.
  const std::string& path() const { return bin_path_; }
  const TokenFileInfo& info() const { return info_; }

  // out[0..count) = the ids at begin, begin + 1, ... of the stream. CHECKs 0 <= begin and
  // begin + count <= tokens(). Ids are not compared with any vocabulary.
  void Read(int64_t begin, int64_t count, int32_t* out) const;
  // Position in the stream of document i's first token; document_begin(documents()) == tokens().
  int64_t document_begin(int64_t document) const;
  // The document that holds token `position`: the last whose begin is at or before it. O(log n).
  int64_t DocumentAt(int64_t position) const;

  // kInvalidArgument when the ids are of another tokenizer than that of `hash`, which `whose` has:
  // ids of one vocabulary mean nothing in another. OK where either is not known (empty).
  Status CheckTokenizer(const std::string& hash, const std::string& whose) const;
  // Reads all of NAME.bin: kDataLoss with the expected and the found checksum. OK where NAME.json
  // names none.
  Status VerifyChecksum() const;
  // Reads all ids: an error naming the first that is outside [0, vocab_size), with its position, as
  // IdError() has it.
  Status CheckIdsBelow(int64_t vocab_size) const;
  // What is wrong with an id outside [0, vocab_size) at a position: kDataLoss where the file says
  // that its ids are below that, else kInvalidArgument, for the vocabulary does not fit.
  Status IdError(int64_t position, int32_t id, int64_t vocab_size) const;

  // 32 hexadecimal digits that tell the stream of this file from others, wherever it lies: of the
  // numbers of tokens and documents and of runs of ids and document borders spread evenly over it
  // (all of them up to 4 million tokens and 64 thousand documents).
  std::string Fingerprint() const;

 private:
  struct Mapping;
  TokenFile();
  Status OpenIndexed(const std::string& name, const Options& options);
  Status OpenShard(const std::string& path);
  Status ReadIndex(const std::string& idx_path);
  Status CheckIndex(const std::string& idx_path);
  Status ReadInfo(const std::string& json_path);
  int64_t Sequence(int64_t document) const;

  std::unique_ptr<Mapping> bin_;
  std::unique_ptr<Mapping> idx_;
  std::string bin_path_;
  TokenFileInfo info_;
  TokenDtype dtype_ = TokenDtype::kUint16;
  int64_t tokens_ = 0;
  int64_t documents_ = 0;
  int64_t data_offset_ = 0;  // bytes before the first id in NAME.bin
  int64_t sequences_ = 0;
  std::vector<int64_t> shard_documents_;  // llm.c: begins, found by the end-of-text token
};

}  // namespace trireme
