#include "formats/torch_file.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/torch_pickle.h"
#include "formats/torch_tensors.h"
#include "formats/zip_archive.h"

namespace laplaced {
namespace {

using Kind = PickleValue::Kind;

// 0x1950a86a20f9469cfc6c, as the first pickle of a legacy file holds it.
constexpr absl::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr size_t kLegacyMagicEnd = 40;  // it stands before this byte, whatever the protocol
constexpr int64_t kLegacyProtocol = 1001;
constexpr absl::string_view kZipMagic("PK\x03\x04", 4);
constexpr char kPickleMember[] = "/data.pkl";

// Tied weights are one storage under two names; no network uses one much more often.
constexpr int64_t kMostUses = 16;

absl::Status Malformed(absl::string_view what) { return absl::InvalidArgumentError(what); }

// The bytes of a storage. They stay where they are, or in `*owned`, until the next call.
using StorageReader =
    std::function<absl::StatusOr<absl::string_view>(const TorchStorage&, std::string* owned)>;

absl::StatusOr<Weights> ReadTensors(std::vector<TorchTensor> tensors, const StorageReader& read,
                                    int64_t max_bytes) {
  // Together those that share a storage, so that one storage at a time is in memory.
  std::stable_sort(tensors.begin(), tensors.end(), [](const TorchTensor& a, const TorchTensor& b) {
    return a.storage.key < b.storage.key;
  });
  Weights weights;
  std::string owned;
  absl::string_view storage;
  int64_t budget = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TorchTensor& tensor = tensors[i];
    const bool first = i == 0 || tensors[i - 1].storage.key != tensor.storage.key;
    if (first) {
      absl::StatusOr<absl::string_view> bytes = read(tensor.storage, &owned);
      if (!bytes.ok()) return bytes.status();
      storage = *bytes;
      budget = static_cast<int64_t>(storage.size()) > INT64_MAX / kMostUses
                   ? INT64_MAX
                   : kMostUses * static_cast<int64_t>(storage.size());
    }
    if (tensor.storage.bytes() > static_cast<int64_t>(storage.size())) {
      return Malformed(absl::StrCat("storage '", absl::CHexEscape(tensor.storage.key), "' has ",
                                    storage.size(), " bytes, its description says ",
                                    tensor.storage.bytes()));
    }
    absl::StatusOr<int64_t> needed = NumBytes(ReadAs(tensor.storage.element), tensor.sizes);
    if (!needed.ok()) return needed.status();
    if (*needed > budget) {
      return Malformed(absl::StrCat("the tensors that share storage '",
                                    absl::CHexEscape(tensor.storage.key), "' are more than ",
                                    kMostUses, " times as large as it"));
    }
    budget -= *needed;
    if (*needed > max_bytes) return Malformed("the tensors are larger than the limit");
    max_bytes -= *needed;
    absl::StatusOr<Array> array = ReadTorchTensor(tensor, storage);
    if (!array.ok()) return array.status();
    weights.emplace(tensor.name, *std::move(array));
  }
  return weights;
}

// Name of the folder that holds data.pkl, without the slash.
absl::StatusOr<std::string> PickleFolder(const ZipArchive& archive) {
  const ZipMember* pickle = nullptr;
  for (const ZipMember& member : archive.members()) {
    if (!absl::EndsWith(member.name, kPickleMember)) continue;
    if (pickle != nullptr) {
      return Malformed(absl::StrCat("two pickles, '", absl::CHexEscape(pickle->name), "' and '",
                                    absl::CHexEscape(member.name), "', expected one"));
    }
    pickle = &member;
  }
  if (pickle == nullptr) {
    return Malformed("a ZIP archive without data.pkl: not written by torch.save");
  }
  return pickle->name.substr(0, pickle->name.size() - (sizeof kPickleMember - 1));
}

// One of the pickles at the beginning of a legacy file; takes it off the front of `bytes`.
absl::StatusOr<Pickle> TakePickle(absl::string_view* bytes) {
  absl::StatusOr<Pickle> pickle = ParseTorchPickle(*bytes);
  if (pickle.ok()) bytes->remove_prefix(pickle->size);
  return pickle;
}

// Magic number, protocol and byte order.
absl::Status CheckLegacyHeader(absl::string_view* bytes) {
  absl::StatusOr<Pickle> magic = TakePickle(bytes);
  if (!magic.ok()) return magic.status();
  if (magic->Root().kind != Kind::kBigInteger || magic->Root().text != kLegacyMagic) {
    return Malformed("expected the magic number of torch.save");
  }
  absl::StatusOr<Pickle> protocol = TakePickle(bytes);
  if (!protocol.ok()) return protocol.status();
  if (protocol->Root().kind != Kind::kInteger || protocol->Root().integer != kLegacyProtocol) {
    return Malformed(absl::StrCat("expected protocol ", kLegacyProtocol, " of torch.save"));
  }
  absl::StatusOr<Pickle> system = TakePickle(bytes);
  if (!system.ok()) return system.status();
  const PickleValue& dict = system->Root();
  if (dict.kind != Kind::kDict) return Malformed("expected a description of the system");
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& value = system->Item(dict, i + 1);
    if (system->Item(dict, i).text != "little_endian") continue;
    if (value.kind == Kind::kBool && value.integer == 1) continue;
    return Malformed("written on a big-endian machine; only little-endian files are read");
  }
  return absl::OkStatus();
}

// Where the bytes of each storage are: behind the list of keys, in its order, each behind the
// number of its elements.
absl::StatusOr<std::map<absl::string_view, absl::string_view>> LegacyStorages(
    const Pickle& object, absl::string_view bytes) {
  absl::StatusOr<std::vector<TorchStorage>> described = FindTorchStorages(object);
  if (!described.ok()) return described.status();
  std::map<absl::string_view, TorchStorage> by_key;
  for (const TorchStorage& storage : *described) by_key[storage.key] = storage;
  absl::StatusOr<Pickle> keys = TakePickle(&bytes);
  if (!keys.ok()) return keys.status();
  if (keys->Root().kind != Kind::kList) return Malformed("expected a list of storages");
  std::map<absl::string_view, absl::string_view> storages;
  for (size_t i = 0; i < keys->Root().items.size(); ++i) {
    const absl::string_view key = keys->Item(keys->Root(), i).text;
    const auto found = by_key.find(key);
    if (found == by_key.end()) {
      return Malformed(
          absl::StrCat("storage '", absl::CHexEscape(key), "' is listed, but no tensor is in it"));
    }
    const TorchStorage& storage = found->second;
    int64_t elements = 0;
    if (bytes.size() < sizeof elements) return Malformed("ends before its last storage");
    std::memcpy(&elements, bytes.data(), sizeof elements);
    bytes.remove_prefix(sizeof elements);
    if (elements != storage.elements) {
      return Malformed(absl::StrCat("storage '", absl::CHexEscape(key), "' has ", elements,
                                    " elements, its description says ", storage.elements));
    }
    if (storage.bytes() > static_cast<int64_t>(bytes.size())) {
      return Malformed(absl::StrCat("storage '", absl::CHexEscape(key), "' needs ", storage.bytes(),
                                    " bytes, the file has ", bytes.size(), " left"));
    }
    const size_t size = static_cast<size_t>(storage.bytes());
    if (!storages.emplace(storage.key, bytes.substr(0, size)).second) {
      return Malformed(absl::StrCat("storage '", absl::CHexEscape(key), "' is listed twice"));
    }
    bytes.remove_prefix(size);
  }
  if (!bytes.empty()) return Malformed(absl::StrCat(bytes.size(), " bytes after its last storage"));
  return storages;
}

}  // namespace

bool IsTorchZip(absl::string_view bytes) { return absl::StartsWith(bytes, kZipMagic); }

bool IsTorchLegacy(absl::string_view bytes) {
  return absl::StartsWith(bytes, "\x80") &&
         absl::StrContains(bytes.substr(0, kLegacyMagicEnd), kLegacyMagic);
}

absl::StatusOr<Weights> ParseTorchZip(absl::string_view bytes, int64_t max_bytes) {
  absl::StatusOr<ZipArchive> archive = ZipArchive::OpenBytes(bytes, "ZIP archive", max_bytes);
  if (!archive.ok()) return archive.status();
  absl::StatusOr<std::string> folder = PickleFolder(*archive);
  if (!folder.ok()) return folder.status();
  if (const ZipMember* order = archive->Find(absl::StrCat(*folder, "/byteorder"))) {
    absl::StatusOr<std::string> text = archive->Read(*order);
    if (!text.ok()) return text.status();
    if (*text != "little") {
      return Malformed("written on a big-endian machine; only little-endian files are read");
    }
  }
  absl::StatusOr<std::string> text =
      archive->Read(*archive->Find(absl::StrCat(*folder, kPickleMember)));
  if (!text.ok()) return text.status();
  absl::StatusOr<Pickle> pickle = ParseTorchPickle(*text);
  if (!pickle.ok()) return pickle.status();
  absl::StatusOr<std::vector<TorchTensor>> tensors = FindTorchTensors(*pickle);
  if (!tensors.ok()) return tensors.status();
  const StorageReader read = [&](const TorchStorage& storage,
                                 std::string* owned) -> absl::StatusOr<absl::string_view> {
    const std::string name = absl::StrCat(*folder, "/data/", storage.key);
    const ZipMember* member = archive->Find(name);
    if (member == nullptr) {
      return Malformed(absl::StrCat("member '", absl::CHexEscape(name), "' is missing"));
    }
    owned->clear();
    absl::StatusOr<std::string> unpacked = archive->Read(*member);
    if (!unpacked.ok()) return unpacked.status();
    *owned = *std::move(unpacked);
    return *owned;
  };
  return ReadTensors(*std::move(tensors), read, max_bytes);
}

absl::StatusOr<Weights> ParseTorchLegacy(absl::string_view bytes, int64_t max_bytes) {
  if (absl::Status status = CheckLegacyHeader(&bytes); !status.ok()) return status;
  absl::StatusOr<Pickle> object = TakePickle(&bytes);
  if (!object.ok()) return object.status();
  absl::StatusOr<std::vector<TorchTensor>> tensors = FindTorchTensors(*object);
  if (!tensors.ok()) return tensors.status();
  absl::StatusOr<std::map<absl::string_view, absl::string_view>> storages =
      LegacyStorages(*object, bytes);
  if (!storages.ok()) return storages.status();
  const StorageReader read = [&](const TorchStorage& storage,
                                 std::string*) -> absl::StatusOr<absl::string_view> {
    const auto found = storages->find(storage.key);
    if (found != storages->end()) return found->second;
    return Malformed(absl::StrCat("storage '", absl::CHexEscape(storage.key), "' is missing"));
  };
  return ReadTensors(*std::move(tensors), read, max_bytes);
}

}  // namespace laplaced
