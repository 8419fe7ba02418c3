"""The pages in a real browser. Skipped where Selenium, Chromium or its driver is not installed (see the README)."""

from __future__ import annotations

import os
import shutil
import unittest
from tempfile import TemporaryDirectory

from sqlalchemy.orm import Session

from studies import services
from studies.models import Participant, StudySession, Trial

from .support import LiveAppTestCase

try:
    from selenium import webdriver
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions
    from selenium.webdriver.support.wait import WebDriverWait
except ModuleNotFoundError:
    webdriver = None  # type: ignore[assignment]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
DRIVER = shutil.which("chromedriver") or ""


@unittest.skipUnless(webdriver and BROWSER and DRIVER, "needs selenium, Chromium (or Chrome) and chromedriver")
class BrowserTests(LiveAppTestCase):
    ada: Participant
    browser: webdriver.Chrome

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        profile = cls.enterClassContext(TemporaryDirectory(ignore_cleanup_errors=True))
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in (
            "--headless",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium refuses to run as root otherwise, in a container say
        cls.browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        cls.addClassCleanup(cls.browser.quit)

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada <3")
        session.add(StudySession(participant=cls.ada, trials=[Trial(position=1), Trial(position=2)]))

    def setUp(self) -> None:
        self.browser.delete_all_cookies()  # one browser serves all tests
        self.browser.get(f"{self.live_server_url}/")

    def click(self, label: str) -> None:
        self.browser.find_element(By.XPATH, f"//*[self::a or self::button][normalize-space()='{label}']").click()

    def assertShows(self, text: str, selector: str = "main") -> None:
        """Fail unless the page shows a text, now or when it has been loaded."""
        shown = expected_conditions.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text)
        try:
            WebDriverWait(self.browser, timeout=60).until(shown)
        except TimeoutException:
            self.fail(f"{text!r} is not shown; the page says:\n{self.browser.find_element(By.TAG_NAME, 'body').text}")

    def test_a_participant_chooses_who_to_be_and_leaves_again(self) -> None:
        self.click("Act as Ada <3")
        self.assertShows("Sessions of Ada <3", "h1")
        self.assertShows("You act as Ada <3 now.", "[role=status]")

        self.click("Leave")
        self.assertShows("Participants", "h1")
        self.assertNotIn("Sessions of", self.browser.find_element(By.TAG_NAME, "nav").text)

    def test_a_page_shows_what_was_measured_meanwhile(self) -> None:
        self.click("Act as Ada <3")
        self.assertShows("0 of 2 trials measured")

        services.record_value(services.claim_next_trial("station 1"), 1.25)
        self.browser.refresh()

        self.assertShows("1 of 2 trials measured")

    def test_the_next_test_sees_nothing_of_it(self) -> None:
        self.click("Act as Ada <3")

        self.assertShows("0 of 2 trials measured")
