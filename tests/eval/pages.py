"""Reading of HTML pages that must be well formed."""

import html.parser
from collections import Counter


class Reader(html.parser.HTMLParser):
    """Checks nesting; collects text, attributes and the number of each tag."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.counts, self.attributes, self.words = [], Counter(), [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.words.append(data)
