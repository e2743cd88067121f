// The thread transport. A send leaves an Offer in its receiver's inbox; the receiver copies from
// the sender's memory into its own, once, chunk by chunk.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "cluster/comm/group_communicator.h"

namespace trireme {
namespace {

// A message between the two threads. The sender writes `ready`, the receiver `taken`.
struct Offer {
  uint8_t operation = 0;
  int64_t bytes = 0;
  std::vector<std::byte> copy;  // of a small message: the sender's memory is not needed again
  std::mutex mutex;             // held while the sender's memory is read, and to withdraw it
  const StreamLayout* layout = nullptr;  // of the sender; null once withdrawn
  std::atomic<int64_t> ready{0};
  std::atomic<int64_t> taken{0};
  std::atomic<bool> seen{false};  // the receiver has met it
  std::atomic<bool> refused{false};
};

struct Inbox {
  std::mutex mutex;
  uint64_t generation = 0;
  std::unordered_map<PeerKey, std::shared_ptr<Offer>, PeerKeyHash> offers;
  std::atomic<uint64_t> arrivals{0};
};

struct SharedWorld {
  explicit SharedWorld(int ranks) : inboxes(ranks) {
    for (int r = 0; r < ranks; ++r) wakers.push_back(std::make_shared<Waker>());
  }
  std::vector<Inbox> inboxes;
  std::vector<std::shared_ptr<Waker>> wakers;
};

struct OfferNotes : Transfer::Notes {
  std::shared_ptr<Offer> offer;
};

std::shared_ptr<Offer> OfferOf(const Transfer& transfer) {
  return transfer.notes ? static_cast<OfferNotes*>(transfer.notes.get())->offer : nullptr;
}

class ThreadTransport final : public MessageTransport {
 public:
  ThreadTransport(std::shared_ptr<SharedWorld> world, int rank)
      : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(world_->inboxes.size()); }
  bool Busy() const override { return false; }
  bool wakes() const override { return true; }

  void Post(Transfer* transfer) override {
    transfer->notes = std::make_unique<OfferNotes>();
    if (!transfer->send) {
      unmet_.push_back(transfer);
      look_again_ = true;
      return;
    }
    if (transfer->layout.bytes() <= kEagerBytes) {
      if (transfer->limit == transfer->layout.bytes()) SendCopy(transfer);
      return;
    }
    auto offer = std::make_shared<Offer>();
    offer->bytes = transfer->layout.bytes();
    offer->layout = &transfer->layout;
    offer->ready = transfer->limit;
    Deliver(transfer, std::move(offer));
    sends_.push_back(transfer);
  }

  void Extend(Transfer* transfer) override {
    if (!transfer->send || transfer->complete) return;
    if (transfer->layout.bytes() <= kEagerBytes) {
      if (transfer->limit == transfer->layout.bytes()) SendCopy(transfer);
      return;
    }
    OfferOf(*transfer)->ready = transfer->limit;
    world_->wakers[transfer->peer]->Notify();
  }

  bool Poll() override {
    bool progressed = MeetOffers();
    for (size_t i = 0; i < receives_.size();) {
      progressed |= Copy(receives_[i]);
      if (receives_[i]->complete || !receives_[i]->status.ok()) {
        receives_[i] = receives_.back();
        receives_.pop_back();
      } else {
        ++i;
      }
    }
    for (size_t i = 0; i < sends_.size();) {
      progressed |= Watch(sends_[i]);
      if (sends_[i]->complete || !sends_[i]->status.ok()) {
        sends_[i] = sends_.back();
        sends_.pop_back();
      } else {
        ++i;
      }
    }
    return progressed;
  }

  void Drop(Transfer* transfer, std::shared_ptr<void> holder) override {
    std::erase(unmet_, transfer);
    std::erase(receives_, transfer);
    std::erase(sends_, transfer);
    const auto offer = OfferOf(*transfer);
    if (offer == nullptr || !transfer->send) return;
    {
      std::lock_guard<std::mutex> lock(offer->mutex);
      offer->layout = nullptr;
    }
    Inbox& inbox = world_->inboxes[transfer->peer];
    std::lock_guard<std::mutex> lock(inbox.mutex);
    const auto found = inbox.offers.find({rank_, transfer->key});
    if (found != inbox.offers.end() && found->second == offer) inbox.offers.erase(found);
  }

  void BeginGeneration(uint64_t generation) override {
    Inbox& inbox = world_->inboxes[rank_];
    std::lock_guard<std::mutex> lock(inbox.mutex);
    inbox.generation = generation;
    std::erase_if(inbox.offers,
                  [&](const auto& entry) { return entry.first.key.generation < generation; });
  }

 private:
  void SendCopy(Transfer* transfer) {
    auto offer = std::make_shared<Offer>();
    offer->bytes = transfer->layout.bytes();
    offer->copy.resize(offer->bytes);
    for (int64_t offset = 0; offset < offer->bytes;) {
      const int64_t end = transfer->layout.ContiguousEnd(offset);
      std::memcpy(offer->copy.data() + offset, transfer->layout.At(offset), end - offset);
      offset = end;
    }
    offer->ready = offer->bytes;
    Deliver(transfer, std::move(offer));
    transfer->done = transfer->layout.bytes();
    transfer->complete = true;
  }

  void Deliver(Transfer* transfer, std::shared_ptr<Offer> offer) {
    offer->operation = transfer->operation;
    static_cast<OfferNotes*>(transfer->notes.get())->offer = offer;
    Inbox& inbox = world_->inboxes[transfer->peer];
    {
      std::lock_guard<std::mutex> lock(inbox.mutex);
      if (transfer->key.generation < inbox.generation) return;
      inbox.offers[{rank_, transfer->key}] = std::move(offer);
      inbox.arrivals.fetch_add(1);
    }
    world_->wakers[transfer->peer]->Notify();
  }

  // Joins posted receives with what has arrived for them.
  bool MeetOffers() {
    Inbox& inbox = world_->inboxes[rank_];
    const uint64_t arrivals = inbox.arrivals.load();
    if (arrivals == arrivals_seen_ && !look_again_) return false;
    arrivals_seen_ = arrivals;
    look_again_ = false;
    bool progressed = false;
    std::lock_guard<std::mutex> lock(inbox.mutex);
    std::erase_if(unmet_, [&](Transfer* transfer) {
      const auto found = inbox.offers.find({transfer->peer, transfer->key});
      if (found == inbox.offers.end()) return false;
      static_cast<OfferNotes*>(transfer->notes.get())->offer = found->second;
      found->second->seen = true;
      inbox.offers.erase(found);
      transfer->heard = true;
      receives_.push_back(transfer);
      progressed = true;
      return true;
    });
    return progressed;
  }

  bool Copy(Transfer* receive) {
    Offer& offer = *OfferOf(*receive);
    if (offer.bytes != receive->layout.bytes() || offer.operation != receive->operation) {
      receive->status = MismatchError(*receive, offer.operation, offer.bytes);
      offer.refused = true;
      world_->wakers[receive->peer]->Notify();
      return true;
    }
    const int64_t end_allowed = std::min(offer.ready.load(), receive->limit);
    if (receive->done < end_allowed) {
      std::lock_guard<std::mutex> lock(offer.mutex);
      if (offer.copy.empty() && offer.layout == nullptr) return false;  // withdrawn
      const int64_t end = std::min(end_allowed, receive->layout.ChunkEnd(receive->done));
      CopyRange(offer, *receive, receive->done, end);
      receive->done = end;
      offer.taken = end;
    } else if (receive->done < offer.bytes) {
      return false;
    }
    receive->complete = receive->done == offer.bytes;
    if (offer.copy.empty()) world_->wakers[receive->peer]->Notify();
    return true;
  }

  static void CopyRange(const Offer& offer, const Transfer& receive, int64_t begin, int64_t end) {
    while (begin < end) {
      int64_t stop = std::min(end, receive.layout.ContiguousEnd(begin));
      const std::byte* source = offer.copy.data() + begin;
      if (offer.copy.empty()) {
        stop = std::min(stop, offer.layout->ContiguousEnd(begin));
        source = offer.layout->At(begin);
      }
      std::memcpy(receive.layout.At(begin), source, stop - begin);
      begin = stop;
    }
  }

  bool Watch(Transfer* send) {
    Offer& offer = *OfferOf(*send);
    send->heard = send->heard || offer.seen;
    if (offer.refused) {
      send->status = InternalError(
          StrCat("world rank ", send->peer, " refused a message of another size or operation"));
      return true;
    }
    const int64_t taken = offer.taken.load();
    if (taken == send->done) return false;
    send->done = taken;
    send->complete = taken == offer.bytes;
    return true;
  }

  std::shared_ptr<SharedWorld> world_;
  int rank_;
  std::vector<Transfer*> unmet_;     // receives without their offer
  std::vector<Transfer*> receives_;  // receives with it
  std::vector<Transfer*> sends_;     // large ones, under way
  uint64_t arrivals_seen_ = 0;
  bool look_again_ = false;
};

}  // namespace

std::vector<std::unique_ptr<CommunicatorFactory>> ThreadWorld(int ranks) {
  CHECK_GE(ranks, 1);
  auto world = std::make_shared<SharedWorld>(ranks);
  std::vector<std::unique_ptr<CommunicatorFactory>> factories;
  for (int rank = 0; rank < ranks; ++rank) {
    factories.push_back(std::make_unique<EngineFactory>(std::make_shared<CommEngine>(
        std::make_unique<ThreadTransport>(world, rank), world->wakers[rank])));
  }
  return factories;
}

}  // namespace trireme
