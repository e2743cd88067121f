#include "storage/token_format.h"

#include "cluster/base/json.h"

namespace trireme {
namespace {

constexpr const char* kFormatName = "trireme-tokens-1";

}  // namespace

const char* TokenDtypeName(TokenDtype dtype) {
  switch (dtype) {
    case TokenDtype::kUint8:
      return "uint8";
    case TokenDtype::kInt16:
      return "int16";
    case TokenDtype::kInt32:
      return "int32";
    case TokenDtype::kInt64:
      return "int64";
    case TokenDtype::kUint16:
      return "uint16";
  }
  return "unknown";
}

int64_t TokenDtypeBytes(TokenDtype dtype) {
  switch (dtype) {
    case TokenDtype::kUint8:
      return 1;
    case TokenDtype::kInt16:
    case TokenDtype::kUint16:
      return 2;
    case TokenDtype::kInt32:
      return 4;
    case TokenDtype::kInt64:
      return 8;
  }
  return 0;
}

TokenDtype TokenDtypeFor(int64_t vocab_size) {
  return vocab_size > 0 && vocab_size < 65500 ? TokenDtype::kUint16 : TokenDtype::kInt32;
}

std::string EncodeTokenFileRecord(const TokenFileRecord& record) {
  Json json;
  json["format"] = kFormatName;
  json["documents"] = record.documents;
  json["tokens"] = record.tokens;
  json["dtype"] = TokenDtypeName(record.dtype);
  json["vocab_size"] = record.info.vocab_size;
  if (record.info.end_of_text.has_value()) json["end_of_text"] = *record.info.end_of_text;
  json["tokenizer"] = record.info.tokenizer_path;
  json["tokenizer_hash"] = record.info.tokenizer_hash;
  json["checksums"] = {{"bin", record.info.bin_checksum}, {"idx", record.info.idx_checksum}};
  return DumpJson(json, 2) + "\n";
}

Result<TokenFileRecord> DecodeTokenFileRecord(const std::string& text) {
  const Json json = ParseJson(text);
  if (json.is_discarded() || !json.is_object()) return DataLossError("is not a JSON object");
  TokenFileRecord record;
  try {
    record.documents = json.value("documents", int64_t{-1});
    record.tokens = json.value("tokens", int64_t{-1});
    record.info.vocab_size = json.value("vocab_size", int64_t{0});
    if (json.contains("end_of_text")) {
      record.info.end_of_text = json["end_of_text"].get<int32_t>();
    }
    record.info.tokenizer_path = json.value("tokenizer", "");
    record.info.tokenizer_hash = json.value("tokenizer_hash", "");
    if (json.contains("checksums")) {
      record.info.bin_checksum = json["checksums"].value("bin", "");
      record.info.idx_checksum = json["checksums"].value("idx", "");
    }
  } catch (const Json::exception& error) {
    return DataLossError(StrCat("holds a value of the wrong type (", error.what(), ")"));
  }
  return record;
}

}  // namespace trireme
