#include "tests/fuzz/fuzzer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "worker/text/text_source.h"
#include "worker/text/tokenizer.h"

namespace trireme {
namespace {

constexpr const char* kTokens[] = {"\"",
                                   "{",
                                   "}",
                                   "[",
                                   "]",
                                   ":",
                                   ",",
                                   "0",
                                   "-1",
                                   "1e999",
                                   "null",
                                   "\n",
                                   "\r",
                                   "\\",
                                   "\\u",
                                   "\\ud8",
                                   "\xff",
                                   "\xc0\x80",
                                   "9223372036854775808",
                                   "18446744073709551615",
                                   "nan",
                                   "<",
                                   "</",
                                   "&#x",
                                   "<!--",
                                   "\xef\xbb\xbf",
                                   "a: &a [*a, *a]",
                                   "[[[[[[[[",
                                   "{{{{{{{{"};

void EditOnce(const std::vector<std::string>& seeds, std::mt19937_64& random, std::string* text) {
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  if (text->empty()) *text = seeds[below(seeds.size())];
  if (text->empty()) return;
  const size_t at = below(text->size());
  switch (below(8)) {
    case 0:
      (*text)[at] = static_cast<char>((*text)[at] ^ (1 << below(8)));
      break;
    case 1:
      (*text)[at] = static_cast<char>(random());
      break;
    case 2:
      text->erase(at, 1 + below(16));
      break;
    case 3:
      text->insert(at, text->substr(below(text->size()), 1 + below(64)));
      break;
    case 4:
      text->resize(at);
      break;
    case 5:
      text->insert(at, kTokens[below(std::size(kTokens))]);
      break;
    case 6: {  // a length field full of ones, or near a limit
      constexpr uint64_t kEdges[] = {0, 1, 0x7f, 0xff, 0x7fffffff, 0xffffffff, 1ull << 40, ~0ull};
      const uint64_t value = kEdges[below(std::size(kEdges))];
      for (size_t i = 0; i < 8 && at + i < text->size(); ++i) {
        (*text)[at + i] = static_cast<char>(value >> (8 * i));
      }
      break;
    }
    default: {
      const std::string& other = seeds[below(seeds.size())];
      if (!other.empty()) text->insert(at, other.substr(below(other.size()), 1 + below(200)));
    }
  }
}

// Puts a value of another type somewhere into JSON that stays JSON: into the text as a whole, or
// into a line of it from its first brace on. False where there is none.
bool Retype(std::mt19937_64& random, std::string* text) {
  static const auto* values = new std::vector<nlohmann::ordered_json>{
      nullptr, true,       -1,        3,  0.5,
      1e300,   UINT64_MAX, INT64_MIN, "", "text\nand more",
      "nan",   "4096",     {1, 2},    {}, nlohmann::ordered_json::object({{"a", 1}})};
  size_t begin = 0, end = text->size();
  auto json = nlohmann::ordered_json::parse(*text, nullptr, false);
  if (!json.is_object()) {
    const size_t place = random() % (text->size() + 1);
    const size_t line = place == 0 ? 0 : text->rfind('\n', place - 1) + 1;
    end = std::min(text->find('\n', line), text->size());
    begin = text->find('{', line);
    if (begin >= end) return false;
    json = nlohmann::ordered_json::parse(text->substr(begin, end - begin), nullptr, false);
    if (!json.is_object()) return false;
  }
  nlohmann::ordered_json* at = &json;
  while (at->is_structured() && !at->empty() && (at == &json || random() % 3 != 0)) {
    auto member = at->begin();
    std::advance(member, random() % at->size());
    at = &*member;
  }
  *at = (*values)[random() % values->size()];
  text->replace(begin, end - begin, json.dump());
  return true;
}

}  // namespace

std::string Damage(const std::vector<std::string>& seeds, uint64_t number) {
  std::mt19937_64 random(number);
  std::string text = seeds[random() % seeds.size()];
  if (random() % 3 == 0 && Retype(random, &text) && random() % 4 != 0) return text;
  for (uint64_t edits = 1 + random() % 8; edits > 0; --edits) EditOnce(seeds, random, &text);
  return text;
}

void Fuzz(const std::string& name, const std::vector<std::string>& seeds, int tries,
          const std::function<void(const std::string&)>& parse) {
  for (const std::string& seed : seeds) parse(seed);
  const char* seconds = std::getenv("TRIREME_FUZZ_SECONDS");
  const auto begin = std::chrono::steady_clock::now();
  // A run by time starts elsewhere each time; the number is printed when something is wrong.
  const uint64_t first = seconds == nullptr ? 1 : std::random_device()();
  for (uint64_t i = 0;; ++i) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (seconds == nullptr ? i >= static_cast<uint64_t>(tries)
                           : passed.count() >= std::atof(seconds)) {
      if (seconds != nullptr) std::printf("%s: %lu inputs\n", name.c_str(), (unsigned long)i);
      return;
    }
    const std::string input = Damage(seeds, first + i);
    WriteFile(FuzzFolder() + "/input", input);
    SCOPED_TRACE(name + ", input number " + std::to_string(first + i));
    parse(input);
    if (testing::Test::HasFailure()) return;
  }
}

void ExpectMessage(const Status& status) {
  if (status.ok()) return;
  EXPECT_FALSE(status.message().empty());
  EXPECT_LT(status.message().size(), 2000u) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
}

int ReadTexts(const std::string& path, const std::string& bytes) {
  WriteFile(path, bytes);
  TextSourceOptions options;
  options.document_bytes_max = 1 << 20;
  auto source = TextSource::Open({path}, options);
  ExpectMessage(source.status());
  if (!source.ok()) return 0;
  Document document;
  for (int count = 0; count < 1000; ++count) {
    const auto more = (*source)->Next(&document);
    ExpectMessage(more.status());
    if (!more.ok() || !*more) return count;
  }
  return 1000;
}

void LoadTokenizer(const std::string& path) {
  const auto tokenizer = Tokenizer::Load(path);
  ExpectMessage(tokenizer.status());
  if (!tokenizer.ok()) return;
  std::vector<int32_t> ids;
  (*tokenizer)->Encode("abc abab \xff", &ids);
  (*tokenizer)->Decode(ids);
  (*tokenizer)->TokenBytes(1 << 30);
}

void WriteFile(const std::string& path, const std::string& bytes) {
  // A new file: some file systems write one back at once that was cut and filled again.
  std::error_code none;
  std::filesystem::remove(path, none);
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string Bytes(const void* data, size_t count) {
  return std::string(static_cast<const char*>(data), count);
}

std::string FuzzFolder() {
  struct Folder {
    std::string path;
    Folder() {
      path = (std::filesystem::temp_directory_path() / "trireme_fuzz_XXXXXX").string();
      EXPECT_NE(mkdtemp(path.data()), nullptr);
    }
    ~Folder() {
      std::error_code error;
      std::filesystem::remove_all(path, error);
    }
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace trireme
