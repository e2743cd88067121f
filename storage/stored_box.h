// Boxes at rest: a box of a named tensor, row-major, somewhere in an object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"

namespace trireme {

struct StoredBox {
  std::string key;     // the object
  int64_t offset = 0;  // of the box's first byte in the object
  DType dtype = DType::kF32;
  Box box;           // in the tensor's coordinates
  std::string name;  // of the tensor, for messages
};

// Reads `region`, a part of `stored.box`, into `out`, which holds `target_box` row-major in
// `target_dtype`. Both boxes contain the region (CHECKed). Reads whole rows of the stored box in
// pieces of about 8 MiB, so memory stays bounded whatever the size.
// Errors: those of ObjectStore::Read with the tensor's name; kDataLoss for a conversion that does
// not exist.
Status ReadStoredBox(const ObjectStore& store, const StoredBox& stored, const Box& region,
                     DType target_dtype, const Box& target_box, std::byte* out);

// A box of a tensor seen through a view whose dims are split further ([H, 3, H] of [H, 3 * H]),
// and the box of the published tensor with the same elements in the same row-major order.
struct ViewedBox {
  Box view;
  Box published;
};

// True when consecutive dims of `view_shape` multiply to each dim of `published_shape`.
bool IsViewOf(const Shape& view_shape, const Shape& published_shape);

// Cuts `box` of the view into boxes of the published tensor. CHECKs IsViewOf. Equal shapes give one
// pair.
std::vector<ViewedBox> PublishedBoxes(const Shape& view_shape, const Shape& published_shape,
                                      const Box& box);

}  // namespace trireme
