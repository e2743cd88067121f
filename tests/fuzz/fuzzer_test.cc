#include "tests/fuzz/fuzzer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

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

}  // namespace

std::string Damage(const std::vector<std::string>& seeds, uint64_t number) {
  std::mt19937_64 random(number);
  std::string text = seeds[random() % seeds.size()];
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
    std::ofstream(FuzzFolder() + "/input", std::ios::binary) << input;
    SCOPED_TRACE(name + ", input number " + std::to_string(first + i));
    parse(input);
    if (testing::Test::HasFailure()) return;
  }
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
