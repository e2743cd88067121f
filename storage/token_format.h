// The bytes of token files: what the reader and the writer share.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "cluster/base/status.h"
#include "storage/token_file.h"

namespace trireme {

// Megatron-LM, megatron/core/datasets/indexed_dataset.py, _IndexWriter: magic, version (u64), dtype
// code (u8), number of sequences (u64), number of document indices (u64); then all lengths (i32),
// all byte offsets into NAME.bin (i64), all document indices (i64: first sequence of each document,
// and the number of sequences at the end).
inline constexpr std::array<char, 9> kIndexMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
inline constexpr uint64_t kIndexVersion = 1;
inline constexpr int64_t kIndexHeaderBytes = 9 + 8 + 1 + 8 + 8;

// llm.c, dev/data/data_common.py: 256 int32, of which magic, version and number of tokens count.
inline constexpr int64_t kShardHeaderBytes = 1024;
inline constexpr int32_t kShardMagicGpt2 = 20240520;
inline constexpr int32_t kShardMagicLlama3 = 20240801;

// NAME.json. `documents` and `tokens` are compared with the pair when it is opened.
struct TokenFileRecord {
  TokenFileInfo info;
  TokenDtype dtype = TokenDtype::kUint16;
  int64_t documents = 0;
  int64_t tokens = 0;
};
std::string EncodeTokenFileRecord(const TokenFileRecord& record);
Result<TokenFileRecord> DecodeTokenFileRecord(const std::string& text);

}  // namespace trireme
