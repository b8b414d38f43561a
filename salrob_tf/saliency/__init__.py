"""Which pixels matter little, copies of images without them, and maps of what a network looks at."""
