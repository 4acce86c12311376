// A formula that is wider than a narrow screen becomes smaller, so that nothing is cut.
function fit() {
  for (const formula of document.querySelectorAll('mjx-container[display="true"]')) {
    formula.style.fontSize = "";
    const share = formula.clientWidth / formula.scrollWidth;
    if (share < 1) formula.style.fontSize = Math.floor(98 * share) + "%";
  }
}

window.addEventListener("load", function () {
  if (window.MathJax && MathJax.startup) MathJax.startup.promise.then(fit);
});
window.addEventListener("resize", fit);
