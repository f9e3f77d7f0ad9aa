"""The state of an engine's batch: who runs, who decodes, what the KV cache holds, and the caches beside it."""

import heapq
from collections import OrderedDict, deque

from synthetic.asks import IMAGE, OUTPUT, VIDEO
from synthetic.life import Life

BLOCK_TOKENS = 16


class TokenCache:
    """Least recently used entries, bounded by tokens."""

    def __init__(self, capacity_tokens: int) -> None:
        """Start empty."""
        self._capacity, self._total = capacity_tokens, 0
        self._entries: OrderedDict[int, int] = OrderedDict()

    def touch(self, key: int) -> bool:
        """Tell whether there is an entry; it counts as used."""
        if key not in self._entries:
            return False
        self._entries.move_to_end(key)
        return True

    def put(self, key: int, tokens: int) -> None:
        """Add an entry; the oldest go."""
        self._total += tokens - self._entries.pop(key, 0)
        self._entries[key] = tokens
        self.shrink(self._capacity)

    def take(self, key: int) -> int:
        """Take out an entry and return its tokens; 0 where there is none."""
        tokens = self._entries.pop(key, 0)
        self._total -= tokens
        return tokens

    def shrink(self, capacity_tokens: int) -> None:
        """Let the oldest go until no more is held than this."""
        while self._entries and self._total > capacity_tokens:
            self._total -= self._entries.popitem(last=False)[1]


class Batch:
    """Requests that run, in order of admission, and sums over those that decode, kept up to date in O(1)."""

    def __init__(self) -> None:
        """Start empty."""
        self.waiting: deque[Life] = deque()
        self.running: dict[int, Life] = {}
        self.decoding: dict[int, Life] = {}
        self.kv = [0, 0, 0, 0]
        """Tokens held, by modality."""
        self.blocks = 0
        self.decode_steps = 0
        self.context = self.visual = 0
        """Of the requests that decode: tokens cached, and the visual part."""
        self.joined: list[int] = []
        self.left: list[int] = []
        """Changes of who decodes, since they were last taken."""
        self._ends: list[tuple[int, int, int]] = []
        self._phases = [0] * BLOCK_TOKENS
        """Of the requests that decode: by (tokens - decode steps) mod the block's size, how many."""

    @property
    def kv_total(self) -> int:
        """Return the tokens held."""
        return sum(self.kv)

    def hold(self, life: Life, begin: int, end: int) -> list[int]:
        """Fill a request's cache up to ``end``; return the tokens by modality."""
        held = life.ask.held(begin, end)
        for kind, tokens in enumerate(held):
            self.kv[kind] += tokens
        self.blocks += _blocks(end) - _blocks(begin)
        life.computed = end
        return held

    def decode(self) -> None:
        """Let all that decode write one token."""
        count = len(self.decoding)
        self.blocks += self._phases[-self.decode_steps % BLOCK_TOKENS]
        self.decode_steps += 1
        self.context += count
        self.kv[OUTPUT] += count

    def join(self, life: Life) -> None:
        """Let a request decode from the next step on."""
        number = life.ask.number
        self.decoding[number] = life
        life.joined = self.decode_steps
        life.epoch += 1
        heapq.heappush(self._ends, (self.decode_steps + life.ask.output - life.generated, number, life.epoch))
        self._phases[(life.computed - self.decode_steps) % BLOCK_TOKENS] += 1
        self.context += life.computed
        self.visual += life.ask.tokens(IMAGE) + life.ask.tokens(VIDEO)
        self.joined.append(number)

    def ended(self) -> list[Life]:
        """Return those that decoded their last token, and let them go."""
        found = []
        while self._ends and self._ends[0][0] <= self.decode_steps:
            _, number, epoch = heapq.heappop(self._ends)
            life = self.decoding.get(number)
            if life is not None and life.epoch == epoch:
                self.leave(life)
                found.append(life)
        return found

    def leave(self, life: Life) -> None:
        """End a request's decoding: its counts are settled."""
        number = life.ask.number
        del self.decoding[number]
        steps = self.decode_steps - life.joined
        self._phases[(life.computed - life.joined) % BLOCK_TOKENS] -= 1
        life.computed += steps
        life.generated += steps
        self.context -= life.computed
        self.visual -= life.ask.tokens(IMAGE) + life.ask.tokens(VIDEO)
        self.left.append(number)

    def free(self, life: Life) -> None:
        """Give back what a request holds."""
        for kind, tokens in enumerate(life.ask.held(0, life.computed)):
            self.kv[kind] -= tokens
        self.blocks -= _blocks(life.computed)
        del self.running[life.ask.number]

    def changes(self) -> tuple[list[int], list[int]]:
        """Take who began and who ended decoding since the last call; a request that did both is in neither."""
        both = set(self.joined) & set(self.left)
        found = [n for n in self.joined if n not in both], [n for n in self.left if n not in both]
        self.joined, self.left = [], []
        return found


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
