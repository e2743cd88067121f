# What quickstart.sh asks about the texts that it is given and about the model that it gets; sourced.

# One name for everything that is made of a folder of texts, so that two corpora do not mix: folders
# with the same last name differ by a hash of where they are.
corpus_name() { # REAL_PATH
  local place
  place=$(printf %s "$1" | sha256sum | cut -c1-8)
  printf 'quickstart_%s_%s\n' "$(basename "$1" | tr -c 'A-Za-z0-9\n' _)" "$place"
}

# Fails when the texts are no longer those that DATA was begun with; notes them there when it is new.
check_same_texts() { # TEXTS DATA
  local listing
  listing=$(find "$1" -type f -printf '%P\t%s\t%T@\n' | LC_ALL=C sort)
  if [ ! -f "$2/texts.tsv" ]; then
    mkdir -p "$2"
    printf '%s\n' "$listing" >"$2/texts.tsv"
  elif [ "$listing" != "$(cat "$2/texts.tsv")" ]; then
    echo "$1: its files are not those that $2 was made of (names, sizes or times differ from" \
      "texts.tsv there): expected the same files, or remove $2 and ${2%_data} to begin again" >&2
    return 1
  fi
}

# Fails unless the model knows clearly more of unseen text than how frequent its tokens are.
check_perplexity() { # OF_THE_MODEL OF_COUNTING_TOKENS
  if ! awk -v model="$1" -v counted="$2" \
    'BEGIN { exit !(model + 0 >= 1 && counted + 0 >= 1 && model + 0 < counted / 2) }'; then
    echo "the model's perplexity on unseen text is ${1:-unknown}: expected below half of the" \
      "${2:-unknown} that counting tokens alone gives" >&2
    return 1
  fi
}
