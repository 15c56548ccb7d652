"""`retain show`: what a model's visual tokens are worth on one picture or video, and what it answers from few of them.

The paper's figures 2 and 4 to 10 (arXiv 2506.01097), for any input. request.py checks what was asked, gather.py asks
the model, place.py puts tokens back on the pictures, draw.py paints them; sheet.py makes the PNG and page.py the page.
"""
