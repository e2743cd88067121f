#include "storage/safetensors.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "cluster/base/checksum.h"
#include "cluster/base/rng.h"
#include "storage/element_conversion.h"
#include "tests/storage/faulty_store.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::span<const std::byte> AsBytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

std::vector<float> Iota(int64_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

std::string FileOf(const std::string& json, int64_t data_bytes) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(json.size() >> (8 * i));
  return file + json + std::string(data_bytes, 'd');
}

std::string HeaderError(const std::string& json, int64_t data_bytes) {
  auto store = NewMemoryStore();
  CHECK(PutText(*store, "f", FileOf(json, data_bytes)).ok());
  const auto reader = SafetensorsReader::Open(*store, "f");
  if (reader.ok()) return "ok";
  EXPECT_EQ(reader.status().code(), StatusCode::kDataLoss);
  return reader.status().message();
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  auto store = NewMemoryStore();
  const std::vector<float> a = Iota(24);
  const std::vector<int64_t> b = {1, -2};
  auto writer = SafetensorsWriter::Create(
      *store, "x.safetensors",
      {{"a", DType::kF32, {4, 6}}, {"b", DType::kI64, {2}}, {"none", DType::kF32, {0, 3}}},
      {{"step", "7"}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(AsBytes(a)).ok());
  ASSERT_TRUE((*writer)->Append(AsBytes(b)).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  const std::string file = *ReadObject(*store, "x.safetensors");
  EXPECT_EQ((*writer)->file_bytes(), static_cast<int64_t>(file.size()));
  EXPECT_EQ((*writer)->checksum(), Checksum64(file));
  EXPECT_EQ((*writer)->OffsetOf(0) % 8, 0);
  EXPECT_EQ(std::memcmp(file.data() + (*writer)->OffsetOf(0), a.data(), 96), 0);

  const auto reader = SafetensorsReader::Open(*store, "x.safetensors");
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_EQ((*reader)->header().metadata.at("step"), "7");
  EXPECT_EQ((*reader)->header().metadata.at("format"), "pt");
  std::vector<float> box(4);
  ASSERT_TRUE(
      (*reader)
          ->Read("a", {{1, 3}, {2, 2}}, DType::kF32, std::as_writable_bytes(std::span(box)).data())
          .ok());
  EXPECT_EQ(box, (std::vector<float>{9, 10, 15, 16}));
  std::vector<int64_t> read_b(2);
  ASSERT_TRUE((*reader)
                  ->Read("b", Box::Whole({2}), DType::kI64,
                         std::as_writable_bytes(std::span(read_b)).data())
                  .ok());
  EXPECT_EQ(read_b, b);
  EXPECT_EQ((*reader)->Read("c", Box::Whole({2}), DType::kI64, nullptr).message(),
            "memory:///x.safetensors: no tensor c");
  EXPECT_EQ((*reader)->Read("a", Box::Whole({6, 4}), DType::kF32, nullptr).message(),
            "memory:///x.safetensors: tensor a is [4, 6], expected [0:6, 0:4] in it");
  std::byte sink[64];
  EXPECT_EQ((*reader)->Read("b", Box::Whole({2}), DType::kF32, sink).message(),
            "memory:///x.safetensors: tensor b is int64, expected float32");
}

TEST(SafetensorsTest, ReadingConvertsAmongFloatingPointTypes) {
  auto store = NewMemoryStore();
  const std::vector<double> values = {0.0, 1.0, -2.5, 0.333251953125, 65504.0, 1e-7};
  auto writer =
      SafetensorsWriter::Create(*store, "x", {{"a", DType::kF64, {3, 2}}, {"h", DType::kF16, {2}}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(AsBytes(values)).ok());
  ASSERT_TRUE((*writer)->Append(AsBytes(std::vector<uint16_t>{0x3555, 0xfc00})).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  const auto reader = SafetensorsReader::Open(*store, "x");
  std::vector<float> floats(6);
  ASSERT_TRUE((*reader)
                  ->Read("a", Box::Whole({3, 2}), DType::kF32,
                         std::as_writable_bytes(std::span(floats)).data())
                  .ok());
  for (int i = 0; i < 6; ++i) EXPECT_EQ(floats[i], static_cast<float>(values[i]));
  std::vector<BFloat16> column(3);
  ASSERT_TRUE((*reader)
                  ->Read("a", {{0, 1}, {3, 1}}, DType::kBF16,
                         std::as_writable_bytes(std::span(column)).data())
                  .ok());
  EXPECT_EQ(ToFloat(column[0]), 1.0f);
  EXPECT_EQ(column[1].bits, ToBFloat16(0.333251953125f).bits);
  ASSERT_TRUE((*reader)
                  ->Read("h", Box::Whole({2}), DType::kF32,
                         std::as_writable_bytes(std::span(floats)).data())
                  .ok());
  EXPECT_EQ(floats[0], 0.333251953125f);
  EXPECT_EQ(floats[1], -std::numeric_limits<float>::infinity());
}

TEST(ElementConversionTest, EveryHalfSurvivesTheTripThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      EXPECT_EQ(FloatToHalf(value), half) << bits;
    }
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3c00);             // a tie goes to even
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-10f + 0x1p-11f), 0x3c02);  // and up here
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-14f, 0.0f)), 0x0400);
}

TEST(ElementConversionTest, TheFirstNonFiniteElementIsFound) {
  std::vector<float> values(10000, 1.0f);
  const auto find = [&] {
    return FindNonFinite(DType::kF32, AsBytes(values).data(), static_cast<int64_t>(values.size()));
  };
  EXPECT_EQ(find(), std::nullopt);
  values[9000] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(find(), 9000);
  values[4097] = std::nanf("");
  EXPECT_EQ(find(), 4097);
}

TEST(SafetensorsHeaderTest, EveryFlawIsNamed) {
  const std::string good = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_EQ(HeaderError("{" + good + "}", 8), "ok");
  EXPECT_EQ(HeaderError("{" + good + "}   ", 8), "ok");
  EXPECT_EQ(HeaderError("{}", 0), "ok");
  EXPECT_EQ(HeaderError(R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", 8), "ok");
  const std::pair<std::string, std::string> bad[] = {
      {"{", "header is not valid JSON"},
      {"[]", "header is not a JSON object"},
      {"{" + good + "," + good + "}", "header names 'a' twice"},
      {R"({"a":3})", "tensor 'a': expected an object with dtype, shape and data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", "tensor 'a': no data_offsets"},
      {R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})",
       "tensor 'a': unknown dtype 'F33'"},
      {R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})",
       "tensor 'a': dtype is not a string"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
       "tensor 'a': shape is not a list of non-negative integers"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
       "tensor 'a': shape is not a list of non-negative integers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
       "tensor 'a': data_offsets is not [begin, end] with begin <= end"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       "tensor 'a': F32 [3] needs 12 bytes, its data_offsets hold 8"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
       "tensor 'a': its shape overflows 64 bits"},
      {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "tensor 'b': begins at byte 4 of the data, expected 8 (overlap)"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})",
       "tensor 'b': begins at byte 6 of the data, expected 4 (gap)"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "expected 61 of header and 4 of tensors"},
      {R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", "(truncated)"},
      {R"({"__metadata__":3})", "__metadata__ is not an object"},
      {R"({"__metadata__":{"k":3}})", "__metadata__ 'k' is not a string"},
      {std::string(100, '[') + std::string(100, ']'), "header: nested too deep"},
      {"{\"\xff\":1}", "header is not valid JSON"},
  };
  for (const auto& [json, message] : bad) {
    const std::string error = HeaderError(json, 8);
    EXPECT_THAT(error, HasSubstr(message)) << json;
    EXPECT_THAT(error, HasSubstr("memory:///f: "));
  }
}

TEST(SafetensorsHeaderTest, FilesThatAreTooShortOrNoneAreRefused) {
  auto store = NewMemoryStore();
  ASSERT_TRUE(PutText(*store, "f", "1234567").ok());
  EXPECT_EQ(SafetensorsReader::Open(*store, "f").status().message(),
            "memory:///f: 7 bytes, expected at least 8");
  ASSERT_TRUE(PutText(*store, "f", std::string(64, '\xff')).ok());
  EXPECT_EQ(SafetensorsReader::Open(*store, "f").status().message(),
            "memory:///f: header of 18446744073709551615 bytes, expected at most 56 (no "
            "safetensors file, or truncated)");
  EXPECT_EQ(SafetensorsReader::Open(*store, "g").status().code(), StatusCode::kNotFound);
}

// Mutated and random headers: any answer but a crash, and nothing that is accepted reads outside of
// the file.
TEST(SafetensorsHeaderTest, MutatedHeadersNeverCrash) {
  const std::string seed_text =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  const std::string alphabet = "{}[]\",:0123456789-.eE\\u\xff\x80 abFdtypeshape";
  const CounterRng rng(20261123, RngUse::kTest, 1);
  uint64_t draw = 0;
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = seed_text;
    const int edits = static_cast<int>(rng.Below(6, draw++));
    for (int e = 0; e < edits; ++e) {
      const size_t at = rng.Below(text.size(), draw++);
      const char c = alphabet[rng.Below(alphabet.size(), draw++)];
      switch (rng.Below(4, draw++)) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        case 2:
          text.erase(at, 1 + rng.Below(8, draw++));
          break;
        default:
          text.insert(at, text.substr(rng.Below(text.size(), draw++), 12));
      }
      if (text.empty()) text = "{";
    }
    const int64_t file_bytes = 8 + static_cast<int64_t>(text.size()) + 32;
    const auto header = ParseSafetensorsHeader(text, file_bytes, "fuzz");
    if (!header.ok()) {
      EXPECT_EQ(header.status().code(), StatusCode::kDataLoss);
      continue;
    }
    ++accepted;
    for (const SafetensorsTensor& tensor : header->tensors) {
      EXPECT_LE(0, tensor.begin);
      EXPECT_LE(header->data_offset + tensor.end, file_bytes);
    }
  }
  EXPECT_GT(accepted, 1000);  // most edits break the header, some do not
  EXPECT_LT(accepted, 15000);
}

class SafetensorsFolderTest : public testing::Test {
 protected:
  void Write(const std::string& key, const std::string& name, float value) {
    auto writer = SafetensorsWriter::Create(*store_, key, {{name, DType::kF32, {1}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append(AsBytes(std::vector<float>{value})).ok());
    ASSERT_TRUE((*writer)->Commit().ok());
  }
  std::string OpenError() { return SafetensorsFolder::Open(*store_).status().message(); }

  std::unique_ptr<ObjectStore> store_ = NewMemoryStore();
};

TEST_F(SafetensorsFolderTest, ShardsAreOneFolder) {
  Write("model-00001-of-00002.safetensors", "a", 1);
  Write("model-00002-of-00002.safetensors", "b", 2);
  ASSERT_TRUE(PutText(*store_, "model.safetensors.index.json",
                      R"({"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
                      R"("b":"model-00002-of-00002.safetensors"}})")
                  .ok());
  const auto folder = SafetensorsFolder::Open(*store_);
  ASSERT_TRUE(folder.ok()) << folder.status().message();
  EXPECT_EQ((*folder)->tensors().size(), 2u);
  float value = 0;
  ASSERT_TRUE((*folder)
                  ->Read("b", Box::Whole({1}), DType::kF32, reinterpret_cast<std::byte*>(&value))
                  .ok());
  EXPECT_EQ(value, 2);
  EXPECT_EQ((*folder)->PlaceOf("a"), "memory:///model-00001-of-00002.safetensors");
  EXPECT_EQ((*folder)->Find("c"), nullptr);
}

TEST_F(SafetensorsFolderTest, WhatTheIndexNamesMustBeThere) {
  EXPECT_EQ(SafetensorsFolder::Open(*store_).status().code(), StatusCode::kNotFound);
  Write("one.safetensors", "a", 1);
  const auto index = [&](const std::string& text) {
    ASSERT_TRUE(PutText(*store_, "model.safetensors.index.json", text).ok());
  };
  index(R"({"weight_map":{"b":"one.safetensors"}})");
  EXPECT_EQ(OpenError(),
            "memory:///model.safetensors.index.json: tensor b is not in memory:///one.safetensors");
  index(R"({"weight_map":{"a":"two.safetensors"}})");
  EXPECT_EQ(OpenError(),
            "memory:///model.safetensors.index.json: tensor a: memory:///two.safetensors: does not "
            "exist");
  index(R"({"weight_map":{"a":"../one.safetensors"}})");
  EXPECT_EQ(OpenError(),
            "memory:///model.safetensors.index.json: tensor a: expected the name of a file");
  index("{");
  EXPECT_EQ(OpenError(),
            "memory:///model.safetensors.index.json: expected a JSON object with a weight_map");
}

TEST(SafetensorsFaultTest, AFullDiskLeavesNoFile) {
  auto base = NewMemoryStore();
  Faults faults;
  FaultyStore store(*base, faults);
  faults.bytes_until_full = 1000;
  auto writer = SafetensorsWriter::Create(store, "x", {{"a", DType::kF32, {1000}}});
  ASSERT_TRUE(writer.ok());
  const Status status = (*writer)->Append(AsBytes(Iota(1000)));
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_EQ(status.message(), "memory:///x: cannot be written: No space left on device");
  EXPECT_EQ(faults.fired, 1);
  EXPECT_EQ(base->Size("x").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace trireme
