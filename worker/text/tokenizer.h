// Text to token ids and back, whatever file the vocabulary came in.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

struct TokenizerOptions {
  // Pre-tokenisation of a tiktoken file that carries none: gpt2, cl100k, o200k, llama3, qwen, or a
  // regular expression. Empty: taken from the file's name.
  std::string pattern;
};

// A tokenizer: immutable once loaded, all const members are thread-safe.
//
// Two families behind one face. Byte-level BPE (GPT-2, tiktoken, Llama 3, Qwen) covers every byte
// string and decodes to exactly what was encoded, unless a normaliser acts. SentencePiece-style BPE
// (Llama 2, llama2.c) puts a space before the text when encoding and drops it when decoding.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads a file or a folder: Hugging Face's tokenizer.json, vocab.json or encoder.json with
  // merges.txt or vocab.bpe beside it, tiktoken's text files and npm's json, llama2.c's
  // tokenizer.bin. Errors: kDataLoss for a missing or broken file, kNotBuilt for a kind that this
  // build does not read, kInvalidArgument for an unknown pattern; one line that names the file.
  static Result<std::unique_ptr<Tokenizer>> Load(const std::string& path,
                                                 const TokenizerOptions& options = {});

  // Appends the ids of `text` to `ids`. Adds no special token, and text that looks like one is
  // plain text. Bytes that are not UTF-8 become one byte token each.
  virtual void Encode(std::string_view text, std::vector<int32_t>* ids) const = 0;
  // The same with special tokens: those in the text become their ids, and those that the
  // tokenizer's template puts around a text (BOS of Llama) are added, as Hugging Face's encode()
  // does.
  virtual void EncodeWithSpecials(std::string_view text, std::vector<int32_t>* ids) const = 0;

  // The text of `ids`; special tokens appear as their text. Ids outside the vocabulary give
  // nothing. A SentencePiece-style tokenizer drops the space that Encode put in front.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;
  // The bytes that one id adds in the middle of a text: what a stream of generated tokens prints.
  virtual std::string TokenBytes(int32_t id) const = 0;
  // Whether `id` is a token; ids between 0 and vocab_size() may be holes.
  virtual bool IsToken(int32_t id) const = 0;

  // One more than the highest id, special tokens included.
  virtual int64_t vocab_size() const = 0;
  // The token that ends a document: <|endoftext|>, <|end_of_text|>, </s>, or what the folder says.
  virtual std::optional<int32_t> end_of_text() const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  // Whether a text prompt starts with bos(): Llama 2 and 3, Gemma.
  virtual bool adds_bos() const = 0;

  // Whether Encode puts a space before a text: SentencePiece-style always, byte-level where the
  // text does not begin with one.
  virtual bool adds_prefix_space() const = 0;

  // 32 hexadecimal digits over everything that decides ids; the same for the same tokenizer read
  // from another kind of file.
  virtual std::string hash() const = 0;
  // One line for people: "byte-level BPE, pattern gpt2, 50000 merges".
  virtual std::string Describe() const = 0;
  // Writes Hugging Face's tokenizer.json; through a temporary file, so never half of one.
  virtual Status Save(const std::string& path) const = 0;
};

}  // namespace trireme
