"""Objects of a splat that has no id maps: by clicks, by phrases, or everything at once.

In: a splat, cameras that see it (its own or virtual ones), and makers of masks (`masks`). Out: a label and a confidence for every Gaussian.
Pictures are renders of the splat, counts inside and outside of masks are Beta evidence, and what they render is the prompt of the next view.
May not: read photos or id maps, change the splat, or know runs and commands.
"""
