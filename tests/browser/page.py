"""The web page as a person at a browser has it: what is written on it, what can be clicked and typed. Elements are found by
their words, never by the page's own classes, so that a test reads as what it does."""
import json
import time

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PATIENCE_S = 60
# Chromium's own words about a refused request; what the page makes of it is tested where it is provoked.
REFUSALS = "Failed to load resource: the server responded with a status of 4"


class Page:
    def __init__(self, base, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
                         "--lang=en-US", "--no-first-run", "--disable-background-networking", "--no-proxy-server",
                         f"--user-data-dir={profile}"]:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.base = base
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        self.driver.set_page_load_timeout(PATIENCE_S)
        self.driver.set_script_timeout(PATIENCE_S)

    def close(self):
        self.driver.quit()

    def go(self, path):
        """A page by its address, as from a bookmark."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.base}/#/{path}")
        self.ready()

    def ready(self):
        self.until("the page is there", lambda: self.run("return document.querySelector('[data-ready]') !== null"))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, what, condition, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = condition()
            except StaleElementReferenceException:  # drawn anew at this moment
                found = None
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}; the page says: {self.text()[:1500]}")
            time.sleep(0.1)

    def text(self):
        return self.run("return document.body.innerText")

    def shows(self, text):
        self.until(f"“{text}” is shown", lambda: text in self.text())

    def _button(self, word):
        return self.run("""
            const inside = [...document.querySelectorAll('dialog[open]')].at(-1) || document;
            return [...inside.querySelectorAll('button, nav a, .tabs a, td a, summary')].find((one) => one.checkVisibility()
              && [one.innerText.trim(), one.getAttribute('aria-label')].includes(arguments[0])) || null;""", word)

    def click(self, word):
        """A button, tab or link by its word."""
        def clicked():
            found = self._button(word)
            if found is None or not found.is_enabled():
                return False
            self.run("arguments[0].scrollIntoView({ block: 'center' })", found)
            found.click()
            return True
        self.until(f"“{word}” can be clicked", clicked)

    def has(self, word):
        return self._button(word) is not None

    def _field(self, label):
        """By its label, best one that says just this."""
        return self.until(f"there is a field “{label}”", lambda: self.run("""
            const inside = [...document.querySelectorAll('dialog[open]')].at(-1) || document;
            const fields = [...inside.querySelectorAll('input, select, textarea')].filter((one) => one.checkVisibility());
            const words = (one) => one.getAttribute('aria-label') || (one.closest('label') ? one.closest('label').innerText.trim().split('\\n')[0] : '');
            return fields.find((one) => words(one) === arguments[0]) || fields.find((one) => words(one).startsWith(arguments[0])) || null;
            """, label))

    def type(self, label, text):
        field = self._field(label)
        if field.get_attribute("type") == "datetime-local":
            # How it is typed depends on the locale.
            self.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', { bubbles: true }))", field, text)
            return
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text)

    def value(self, label):
        return self._field(label).get_attribute("value")

    def choose(self, label, word):
        for option in self._field(label).find_elements(By.TAG_NAME, "option"):
            if option.text == word:
                option.click()
                return
        raise AssertionError(f"{label} has no {word}")

    def tick(self, label):
        self._field(label).click()

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focus(self):
        """What has the focus, by its words."""
        return self.run("const one = document.activeElement; return one.getAttribute('aria-label') || one.name || one.id || one.innerText")

    def tables(self):
        """Every table that can be seen: rows as {head: cell}."""
        return self.run("""
            const inside = [...document.querySelectorAll('dialog[open]')].at(-1) || document;
            return [...inside.querySelectorAll('table')].filter((table) => table.offsetParent).map((table) => {
              const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.replace(/ [▾▴]$/, '').trim());
              return [...table.tBodies[0].rows].filter((row) => row.cells.length === heads.length && !row.hidden)
                .map((row) => Object.fromEntries(heads.map((head, at) => [head, row.cells[at].innerText.trim()])));
            });""")

    def rows(self, head):
        """Those of the first table with such a column."""
        for table in self.tables():
            if table and head in table[0]:
                return table
        return []

    def row(self, head, word):
        """Waits for a row by what stands in a column (first line of it)."""
        def found():
            fits = [row for row in self.rows(head) if word in row[head].split()]
            return fits[0] if fits else None
        return self.until(f"{head} has {word}", found)

    def told(self, text):
        """Waits for what the page tells, and makes it go."""
        def found():
            return [note for note in self.toasts() if text in note]
        self.until(lambda: f"the page tells “{text}”, not {self.toasts()}", found)
        self.run("document.getElementById('toasts').replaceChildren()")

    def toasts(self):
        return self.run("return [...document.querySelectorAll('#toasts > *')].map((note) => note.innerText)")

    def complaints(self, refusals=False):
        """What the browser has complained of since the last call: scripts that fail, files that are missing, forbidden loads."""
        lines = [f"{one['level']} {one['message']}" for one in self.driver.get_log("browser")]
        return [line for line in lines if not (refusals and REFUSALS in line)]

    def media(self, **features):
        """As a person who has chosen so: prefers_color_scheme='dark'."""
        chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": chosen})

    def size(self, width, height):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    def picture(self, file):
        self.driver.save_screenshot(file)

    def fetch(self, url, **options):
        """As a script of the page that is open: (status, text), or the error's name."""
        return self.driver.execute_async_script("""
            const [url, options, done] = arguments;
            fetch(url, options).then(async (answer) => done([answer.status, await answer.text()]), (error) => done([0, error.name]));
            """, url, json.loads(json.dumps(options)))
