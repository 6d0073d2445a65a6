"""Draws a fitted posterior, and how it does on data, as one HTML file that needs nothing else.

    python -m laplace_client.report fashion_cnn --out report.html \\
        --id x_test.npy,y_test.npy --ood digits=digits.npy

Needs matplotlib (Debian: python3-matplotlib; pip: matplotlib). In a program,
`page.report` makes the text from a model, its posterior, and what `data.evaluate` asked a client.
"""
